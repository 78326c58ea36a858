"""`ssft bench`: the comparison by default, its subcommands, and wrong input."""

import json

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, save_bundle
from tiny_base import rows, save_rows, save_tiny_base

from ssft.adapters import loader
from ssft.bench.methods import method_names
from ssft.cli._adapted import override_tree, own_rows
from ssft.cli.main import cli
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path):
    return save_rows(tmp_path / "rows.jsonl", [{"prompt": f"5 {i} 7"} for i in range(9, 13)])


@pytest.fixture
def adapted(monkeypatch):
    value = fake_adapted()
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: value)
    return value


def run(*args):
    return CliRunner().invoke(cli, ["bench", *map(str, args)])


@pytest.mark.parametrize("first", ["adapter", "option"])
def test_the_comparison_needs_no_command(adapted, data, first):
    options = ["--data", data, "--max-new-tokens", 8, "--rounds", 2, "--json"]
    result = run(*(["any", *options] if first == "adapter" else [*options, "any"]))
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert list(facts["methods"]) == method_names()
    assert (facts["rows"], facts["rounds"], facts["adapter"]) == (4, 2, "tiny")
    assert {method["identical"] for method in facts["methods"].values()} == {4}
    assert facts["methods"]["streaming"]["calls"] < facts["methods"]["plain"]["calls"] == 32


def test_the_table_and_the_file(adapted, data, tmp_path):
    output = tmp_path / "results" / "bench.json"
    options = ["--max-new-tokens", 8, "--rounds", 1, "--limit", 2, "--tree", "max_nodes=7", "--output", output]
    result = run("any", "--data", data, "--methods", "streaming", *options)
    assert result.exit_code == 0, result.output
    assert "tiny: 2 prompts, at most 8 tokens, batch 1, 1 rounds, float32 on cpu: test" in result.stdout
    assert "speed-up" in result.stdout
    assert "\nplain " in result.stdout
    assert "\nstreaming " in result.stdout
    facts = json.loads(output.read_text())
    assert facts["rows"] == 2
    assert facts["tree"]["max_nodes"] == 7


def test_profile(adapted, data, tmp_path):
    output = tmp_path / "profile.json"
    result = run("profile", "any", "--data", data, "--max-new-tokens", 6, "--output", output)
    assert result.exit_code == 0, result.output
    assert "layers with streams" in result.stdout
    assert "per token" in result.stdout
    facts = json.loads(run("profile", "any", "--data", data, "--max-new-tokens", 6, "--json").stdout)
    assert set(facts) == set(json.loads(output.read_text()))
    assert facts["streaming"]["parts"]["layers with streams"]["ms"] > 0
    assert facts["plain"]["passes"] == 4 * 5


def test_train(tmp_path):
    base = save_tiny_base(tmp_path / "base")
    train_file = save_rows(tmp_path / "train.jsonl", rows(12))
    validation_file = save_rows(tmp_path / "validation.jsonl", rows(2, start=12))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"base: {base}\ndtype: float32\ndata:\n  train: {train_file}\n  validation: {validation_file}\n"
        "lora:\n  r: 4\n  target_modules: all-linear\n"
        "training:\n  num_streams: 2\n  num_msa_layers: 2\n  per_device_train_batch_size: 2\n"
        "  eval_strategy: epoch\n  use_cpu: true\n"
    )
    options = ["--batches", 2, "--rounds", 2, "--device", "cpu"]
    result = run("train", recipe, "training.num_streams=3", *options, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert (facts["recipe"], facts["num_streams"], facts["num_msa_layers"]) == ("tiny", 3, 2)
    assert (facts["batches"], facts["batch_size"], facts["rounds"]) == (2, 2, 2)
    assert facts["precision"] == "float32"
    low, high = facts["ratio_interval"]
    assert 0 < low <= facts["ratio"] <= high
    assert facts["completion_tokens"] < facts["tokens"]
    result = run("train", recipe, "--batches", 7, "--device", "cpu")
    assert result.exit_code == 2
    assert "has 12 rows, 7 batches of 2 need 14; give fewer --batches" in result.stderr


def test_help_shows_the_options_of_the_comparison_and_the_commands():
    text = run("--help").stdout
    assert all(word in text for word in ("--rounds", "--methods", "--tree", "train", "profile", "ADAPTER | COMMAND"))
    assert "compare " not in text.partition("Commands")[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "streming"], "did you mean 'streaming'?"),
        (["--tree", "max_node=3"], "did you mean max_nodes?"),
        (["--tree", "max_nodes=many"], "expected a value of type int"),
        (["--tree", "max_nodes=0"], "must lie between 1 and"),
        (["--rounds", "0"], "Invalid value for '--rounds'"),
        (["--data", "nowhere.jsonl"], "does not exist"),
        (["--output", "."], "is a directory"),
    ],
)
def test_wrong_input_exits_2(adapted, tmp_path, data, options, message):
    base = save_tiny_base(tmp_path / "base")
    adapter = save_bundle(tmp_path / "adapter", base)
    result = run(adapter, *([] if "--data" in options else ["--data", data]), *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_an_adapter_without_streams_is_wrong_input(monkeypatch, data):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: fake_adapted(streams=False))
    assert run("any", "--data", data, "--methods", "generate", "--rounds", 1, "--max-new-tokens", 2).exit_code == 0
    result = run("any", "--data", data)
    assert result.exit_code == 2
    assert "no streams" in result.stderr


def test_own_rows_are_the_validation_rows_of_the_run(tmp_path):
    (tmp_path / "run.yaml").write_text("data:\n  train: quickstart\n  max_validation_rows: 3\n")
    assert len(own_rows(str(tmp_path))) == 3
    (tmp_path / "run.yaml").write_text("data:\n  train: gone.jsonl\n")
    with pytest.raises(DataError, match=r"(?s)cannot be had: gone\.jsonl: no such file.*--data FILE"):
        own_rows(str(tmp_path))
    (tmp_path / "run.yaml").write_text("")
    with pytest.raises(ConfigError, match="does not say on which data it was made; give prompts with --data FILE"):
        own_rows(str(tmp_path))


def test_override_tree_takes_the_last_value_and_leaves_the_original():
    tree = TreeConfig()
    changed = override_tree(tree, ["max_nodes=3", "tree.kind=chain", "max_nodes = 5"])
    assert (changed.max_nodes, changed.kind, tree.max_nodes) == (5, "chain", 16)
    with pytest.raises(ConfigError, match="write key=value"):
        override_tree(tree, ["max_nodes"])
    with pytest.raises(ConfigError, match="unknown key 'qq'; known are kind, max_nodes"):
        override_tree(tree, ["qq=1"])
