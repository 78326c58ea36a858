"""`ssft inspect`: the facts of a bundle, and of a plain LoRA."""

import json

import pytest
from click.testing import CliRunner
from conftest import LAYERS, tiny_llama, with_adapter
from fake_adapted import save_bundle
from shelf import SHELF, save_adapter
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


def test_several_adapters(adapter, tmp_path):
    with_adapter(tiny_llama()).save_pretrained(tmp_path / "lora")
    facts = json.loads(run(adapter, tmp_path / "lora", "--json").stdout)
    assert facts == {"adapters": [json.loads(run(path, "--json").stdout) for path in (adapter, tmp_path / "lora")]}
    text = run(adapter, tmp_path / "lora").stdout
    assert text == "\n".join(run(path).stdout for path in (adapter, tmp_path / "lora"))
    result = run(adapter, tmp_path / "nowhere")
    assert result.exit_code == 2
    assert result.stdout == ""


# --- the memory account ---


@pytest.fixture(scope="module")
def small(adapter):
    return save_adapter(adapter.parent / "small", adapter.parent / "base", *SHELF["small"])


# Of one layer of the tiny base: numbers of a LoRA on all its linear modules, for every rank. A has a row [in] for each
# module; B has one that is as wide as all modules together that are given the same input: q|k|v and gate|up.
A_ROWS = 3 * 64 + 64 + 2 * 64 + 96
B_ROWS = 3 * (64 + 32 + 32) + 64 + 2 * (96 + 96) + 64
BYTES = {
    "sql": 4 * (LAYERS * 4 * (A_ROWS + B_ROWS) + 3 * 64),
    "small": 4 * (LAYERS * 2 * 2 * (64 + 64 + 32 + 32) + 1 * 64),  # q and v alone, in the columns of q|k|v
}
"""What the adapters take: float32 numbers of their LoRA and of their streams."""


def memory(adapter, small, *options):
    base = ["--base", adapter.parent / "base", "--dtype", "float32", "--device", "cpu"]
    return run(adapter, small, "--memory", *base, *options)


def test_the_memory_account(adapter, small):
    result = memory(adapter, small, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    account = json.loads(result.stdout)
    assert list(account["adapters"]) == ["sql", "small"]
    for name, entry in account["adapters"].items():
        files = [path.stat().st_size for path in (adapter.parent / name).glob("*.safetensors")]
        assert entry["file_bytes"] == sum(files)
        assert entry["ratio"] == entry["bytes"] / entry["file_bytes"]
        assert entry["bytes"] == BYTES[name]
        assert (entry["tier"], entry["pinned"]) == ("device", False)
    resident = sum(entry["bytes"] for entry in account["adapters"].values())
    assert account["adapters_resident"] == resident
    assert account["total"] == account["base"] + resident
    assert account["process"] > account["total"]
    assert account["max_adapter_bytes"] is None
    text = memory(adapter, small).stdout
    for line in ("base and adapters", "adapters on the device", "bytes of its files", "sql", "process"):
        assert line in text
    assert f"{account['base']:,}" in text
    assert f"{account['adapters']['sql']['ratio']:.3f}" in text
    assert "most bytes" not in text


def test_a_budget_shows_who_left(adapter, small):
    account = json.loads(memory(adapter, small, "--json").stdout)
    sizes = {name: entry["bytes"] for name, entry in account["adapters"].items()}
    budget = sizes["sql"] + sizes["small"] - 1
    account = json.loads(memory(adapter, small, "--json", "--max-adapter-bytes", budget).stdout)
    assert {name: entry["tier"] for name, entry in account["adapters"].items()} == {"sql": "disk", "small": "device"}
    assert account["adapters_resident"] == sizes["small"]
    text = memory(adapter, small, "--max-adapter-bytes", budget).stdout
    assert "most bytes of adapters there" in text
    assert "disk" in text
    result = memory(adapter, small, "--max-adapter-bytes", 10)
    assert result.exit_code == 2
    assert "max_adapter_bytes is 10; raise it" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--base", "x"], "--base is for --memory; without it no base is loaded"),
        (["--max-adapter-bytes", "5"], "--max-adapter-bytes is for --memory"),
        (["--memory", "--max-adapter-bytes", "0"], "Invalid value for '--max-adapter-bytes'"),
    ],
)
def test_options_of_the_account_need_it(adapter, options, message):
    result = run(adapter, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_base_that_no_adapter_names_must_be_given(tmp_path):
    with_adapter(tiny_llama()).save_pretrained(tmp_path / "lora")
    result = run(tmp_path / "lora", "--memory")
    assert result.exit_code == 2
    assert "nothing says which base the adapters were made for; name it with --base" in result.stderr
    result = run(tmp_path / "lora", tmp_path / "lora", "--memory")
    assert result.exit_code == 2
    assert "adapters are told apart by the names of their folders" in result.stderr
