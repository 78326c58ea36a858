"""`ssft inspect`: the facts of a bundle, and of a plain LoRA."""

import json

import pytest
from click.testing import CliRunner
from conftest import tiny_llama, with_adapter
from fake_adapted import save_bundle
from tiny_base import save_tiny_base

from ssft.cli.main import cli


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    return save_bundle(folder / "sql", save_tiny_base(folder / "base"))


def run(*args):
    return CliRunner().invoke(cli, ["inspect", *map(str, args)])


def test_the_facts_as_json(adapter):
    result = run(adapter, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["adapter"] == "sql"
    assert facts["base"]["id"] == "base"
    assert facts["base"]["architecture"] == "LlamaForCausalLM"
    assert len(facts["base"]["config_sha256"]) == 64
    assert facts["lora"]["r"] == 4
    assert "q_proj" in facts["lora"]["target_modules"]
    assert facts["lora"]["parameters"] > 0
    assert facts["streams"]["num_streams"] == 3
    assert facts["streams"]["num_msa_layers"] == 2
    assert facts["tree"]["max_nodes"] == 48
    assert facts["extra_parameters"] == 3 * 64
    assert facts["files"]["streams.safetensors"] > 3 * 64 * 4
    assert facts["size_bytes"] <= sum(facts["files"].values())
    assert facts["provenance"] == {"ssft": "0", "train_seconds": 1.5}


def test_the_facts_as_a_table(adapter):
    text = run(adapter).stdout
    for line in ("streams.num_streams", "lora.r", "tree.kind", "provenance.train_seconds", "base.id"):
        assert line in text
    assert "history" not in text


def test_a_plain_lora_has_no_streams(tmp_path):
    with_adapter(tiny_llama()).save_pretrained(tmp_path / "lora")
    facts = json.loads(run(tmp_path / "lora", "--json").stdout)
    assert (facts["streams"], facts["tree"], facts["extra_parameters"]) == (None, None, 0)
    assert "decoded one token per pass" in run(tmp_path / "lora").stdout


@pytest.mark.parametrize(("name", "message"), [("nowhere", "is no folder"), ("empty", "adapter_config.json: missing")])
def test_what_is_no_adapter_exits_2(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / name)
    assert result.exit_code == 2
    assert message in result.stderr
