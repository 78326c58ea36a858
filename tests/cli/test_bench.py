"""`ssft bench`: the comparison by default, its subcommands, and wrong input."""

import json
import sys

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, save_bundle
from methods_that_fail import interrupt_plain, wrong_tokens
from shelf import SHELF, save_adapter
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bench.methods import generate_static, method_names, plain, streaming
from ssft.bundle.read import read_bundle
from ssft.cli._adapted import override_tree, own_rows
from ssft.cli._shelf import data_files
from ssft.cli.main import cli
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError, DataError
from ssft.runtime import loader
from ssft.runtime.model import MultiAdapterModel


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
    assert list(facts["methods"]) == ["plain", "generate", "streaming"]
    assert (facts["rows"], facts["rounds"], facts["adapter"], facts["left_out"]) == (4, 2, "tiny", {})
    assert {method["identical"] for method in facts["methods"].values()} == {4}
    assert facts["methods"]["streaming"]["calls"] < facts["methods"]["plain"]["calls"] == 32


def test_the_table_and_the_file(adapted, data, tmp_path):
    output = tmp_path / "results" / "bench.json"
    options = ["--max-new-tokens", 8, "--rounds", 1, "--limit", 2, "--tree", "max_nodes=7", "--output", output]
    result = run("any", "--data", data, "--methods", "streaming", *options)
    assert result.exit_code == 0, result.output
    assert "tiny: 2 prompts, at most 8 tokens, batch 1, 1 round, float32 on cpu: " in result.stdout
    assert "speed-up" in result.stdout
    assert "\nplain " in result.stdout
    assert "\nstreaming " in result.stdout
    facts = json.loads(output.read_text())
    assert facts["rows"] == 2
    assert facts["tree"]["max_nodes"] == 7


def no_compiler(*_):
    """Compiling takes longer than all the rest."""
    raise ConfigError("no compiler in this test")


def test_streams_at_a_temperature_give_the_text_of_plain_decoding_at_it(adapted, data):
    options = ["any", "--data", data, "--max-new-tokens", 12, "--rounds", 1, "--json"]
    drawn, other = (json.loads(run(*options, "--temperature", t).stdout) for t in (0.7, 1.5))
    assert list(drawn["methods"]) == ["plain", "streaming"]
    assert drawn["temperature"] == 0.7
    assert drawn["methods"]["streaming"]["identical"] == drawn["rows"]
    assert drawn["outputs"] != other["outputs"]
    greedy = json.loads(run(*options).stdout)
    assert greedy["temperature"] is None
    assert greedy["outputs"] != drawn["outputs"]
    refused = run(*options, "--temperature", 0.7, "--methods", "plain,generate")
    assert refused.exit_code == 2
    assert "generate decodes greedily here and cannot draw tokens or keep a form; leave it out" in refused.stderr


def test_all_methods_are_those_that_can_run_and_the_others_are_listed(adapted, data, monkeypatch):
    monkeypatch.setattr(generate_static.Method, "__init__", no_compiler)
    options = ["--data", data, "--methods", "all", "--limit", 1, "--max-new-tokens", 3, "--rounds", 1]
    result = run("any", *options, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert {*facts["methods"], *facts["left_out"]} == set(method_names())
    assert {"plain", "generate", "streaming", "prompt_lookup"} <= set(facts["methods"])
    assert set(facts["left_out"]) >= {"medusa", "assisted"}
    text = run("any", *options).stdout
    assert all(name in text for name in ("left out", "medusa", "assisted"))


def test_a_named_method_that_cannot_run_is_wrong_input(adapted, data, tmp_path):
    for peers in ([], ["--peers", tmp_path]):
        result = run("any", "--data", data, "--methods", "medusa", *peers)
        assert result.exit_code == 2, (result.output, result.exception)
        assert "ssft train" in result.stderr
    result = run("any", "--data", data, "--peers", tmp_path / "none")
    assert result.exit_code == 2
    assert "no such folder; give the folder that holds any/ with medusa, draft, twin" in result.stderr


def test_a_method_gets_its_adapters_folder_of_peers(adapted, data, tmp_path, monkeypatch):
    seen = []
    (tmp_path / "any").mkdir()
    init = plain.Method.__init__

    def spy(self, setting):
        seen.append(setting.peers)
        init(self, setting)

    monkeypatch.setattr(plain.Method, "__init__", spy)
    options = ["--data", data, "--methods", "plain", "--max-new-tokens", 2, "--rounds", 1]
    assert run("somewhere/any", *options, "--peers", tmp_path).exit_code == 0
    assert run("somewhere/any", *options).exit_code == 0
    assert seen == [tmp_path / "any", None]


def test_categories_of_the_data_are_kept_apart(adapted, tmp_path):
    values = [{"prompt": f"5 {i} 7", "category": "odd" if i % 2 else "even"} for i in range(9, 13)]
    data = save_rows(tmp_path / "rows.jsonl", values)
    options = ["--data", data, "--methods", "streaming", "--max-new-tokens", 3, "--rounds", 1]
    facts = json.loads(run("any", *options, "--json").stdout)
    counts = {name: value["rows"] for name, value in facts["methods"]["streaming"]["categories"].items()}
    assert counts == {"odd": 2, "even": 2}
    assert "speed-up by category" in run("any", *options).stdout


def test_an_interrupted_comparison_tells_what_it_has_and_exits_130(adapted, data, tmp_path, monkeypatch):
    interrupt_plain(monkeypatch, 40)
    output = tmp_path / "bench.json"
    options = ["--data", data, "--methods", "plain", "--max-new-tokens", 2, "--rounds", 60, "--output", output]
    result = run("any", *options)
    assert result.exit_code == 130, (result.output, result.exception)
    facts = json.loads(output.read_text())
    assert facts["interrupted"]
    assert 0 < facts["rounds"] < 60
    assert "\nplain " in result.stdout
    assert "before an interruption" in result.stdout


def test_a_broken_promise_fails_in_float32_only(adapted, data, monkeypatch):
    monkeypatch.setattr(streaming.Method, "run", wrong_tokens)
    options = ["--data", data, "--methods", "streaming", "--max-new-tokens", 4, "--rounds", 1]
    result = run("any", *options)
    assert result.exit_code == 1, (result.output, result.exception)
    remark = "streaming does not keep its promise: its text differs from plain's on 4 of 4 prompts"
    assert remark in result.stdout
    assert run("any", *options, "--json").exit_code == 1
    adapted.precision = "bfloat16"
    result = run("any", *options)
    assert result.exit_code == 0, (result.output, result.exception)
    assert remark in result.stdout


def test_spec_bench_questions_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssft", "bench", "adapter", "--spec-bench", str(tmp_path / "question.jsonl")])
    base = save_tiny_base(tmp_path / "base")
    adapter = save_bundle(tmp_path / "adapter", base)
    turns = [("writing", ["write", "again"]), ("qa", ["who?"]), ("qa", ["where?"])]
    questions = [{"question_id": i, "category": name, "turns": texts} for i, (name, texts) in enumerate(turns)]
    file = save_rows(tmp_path / "question.jsonl", questions)
    options = ["--base", base, "--dtype", "float32", "--spec-bench", file, "--max-new-tokens", 3, "--rounds", 1]
    result = run(adapter, *options, "--methods", "streaming", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    counts = {name: value["rows"] for name, value in facts["methods"]["streaming"]["categories"].items()}
    assert counts == {"multi-turn conversation": 2, "qa": 2}
    assert facts["methods"]["streaming"]["identical"] == facts["rows"] == 4
    assert facts["adapter_sha256"] == read_bundle(adapter).weights_sha256
    assert facts["command"] == "ssft bench adapter --spec-bench question.jsonl"
    assert json.loads(run(adapter, *options, "--methods", "plain", "--limit", 1, "--json").stdout)["rows"] == 3
    result = run(adapter, *options, "--data", file)
    assert result.exit_code == 2
    assert "--data and --spec-bench: give one of them" in result.stderr


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
    assert "13 categories" in " ".join(text.split())
    words = ("--rounds", "--methods", "--tree", "--spec-bench", "--peers", "train", "profile", "adapters", "tasks")
    assert all(word in text for word in (*words, "ADAPTER | COMMAND", "--compare A.json B.json"))
    assert not any(hidden in text.partition("Commands")[2] for hidden in ("measure ", "compare "))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "streming"], "did you mean 'streaming'?"),
        (["--tree", "max_node=3"], "did you mean 'max_nodes'?"),
        (["--tree", "max_nodes=many"], "tree.max_nodes='many', expected int"),
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


def test_own_rows_of_a_file_keep_what_training_does_not_read(tmp_path):
    values = [{"prompt": f"p{i}", "completion": "c", "references": ["c", f"r{i}"], "category": "qa"} for i in range(4)]
    train = save_rows(tmp_path / "train.jsonl", rows(3))
    validation = save_rows(tmp_path / "validation.jsonl", values)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(f"data:\n  train: {train}\n  validation: {validation}\n  max_validation_rows: 2\n")
    found = own_rows(str(tmp_path))
    assert len(found) == 2
    assert all(row in values for row in found)


def test_override_tree_takes_the_last_value_and_leaves_the_original():
    tree = TreeConfig()
    changed = override_tree(tree, ["max_nodes=3", "tree.kind=chain", "max_nodes = 5"])
    assert (changed.max_nodes, changed.kind, tree.max_nodes) == (5, "chain", 16)
    with pytest.raises(ConfigError, match="write key=value"):
        override_tree(tree, ["max_nodes"])
    with pytest.raises(ConfigError, match=r"tree\.qq is unknown"):
        override_tree(tree, ["qq=1"])


# --- ssft bench adapters ---


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Two adapters, the second with validation rows of its own, and a plain LoRA that names no base."""
    folder = tmp_path_factory.mktemp("shelf")
    base = save_tiny_base(folder / "base")
    for name in ("deep", "projected"):
        save_adapter(folder / name, base, *SHELF[name])
    own = save_rows(folder / "own.jsonl", rows(9))
    (folder / "projected" / "run.yaml").write_text(f"data:\n  train: quickstart\n  validation: {own}\n")
    save_adapter(folder / "plain", base)
    save_rows(folder / "rows.jsonl", rows(3))
    return folder


@pytest.fixture
def over_base(shelf):
    """Arguments of a quick run with both adapters; `--base` because a bundle names its base by an id, not by a path."""
    small = ["--max-new-tokens", 3, "--rounds", 1, "--adapters", 4]
    base = ["--base", shelf / "base", "--dtype", "float32", "--device", "cpu"]
    return ["adapters", shelf / "deep", shelf / "projected", *base, *small]


def test_adapters_as_json_and_as_a_file(over_base, shelf, tmp_path):
    output = tmp_path / "results" / "adapters.json"
    data = ["--data", f"deep={shelf / 'rows.jsonl'}", "--limit", 5]
    result = run(*over_base, *data, "--seed", 4, "--json", "--output", output)
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts == json.loads(output.read_text())
    assert {"device", "precision", "threads", "adapters", "shelf", "comparisons", "differences"} <= set(facts)
    assert (facts["precision"], facts["max_new_tokens"], facts["rounds"], facts["seed"]) == ("float32", 3, 1, 4)
    assert {name: value["prompts"] for name, value in facts["adapters"].items()} == {"deep": 3, "projected": 5}
    assert [entry["loaded"] for entry in facts["shelf"]] == [0, 2, 4, 0]
    assert facts["shelf"][0]["tensors"] == facts["shelf"][-1]["tensors"]
    assert facts["mixed_rows"] == 16
    assert facts["differences"] == {"deep": [], "projected": []}
    assert [entry["identical"] for entry in facts["comparisons"]] == [8, None, 8, 8, 8, 8]


def test_adapters_as_tables_with_a_difference(over_base, shelf, monkeypatch):
    generate = MultiAdapterModel.generate

    def wrong(self, prompts, adapter=None, **settings):
        results = generate(self, prompts, adapter, **settings)
        if len(set(adapter or ())) > 1:
            results[0]["token_ids"][1] = (results[0]["token_ids"][1] + 1) % 97
        return results

    monkeypatch.setattr(MultiAdapterModel, "generate", wrong)
    result = run(*over_base, "--data", shelf / "rows.jsonl", "--limit", 2)
    assert result.exit_code == 0, (result.output, result.exception)
    text = result.stdout
    assert text.startswith(
        "deep (2 prompts), projected (2 prompts) over base: at most 3 tokens, 1 round, float32 on cpu"
    )
    assert "mixed tasks: 14 of 16 rows are what the row gives alone" in text
    assert "7/8" in text
    assert all(title in text for title in ("Sizes", "Adapters loaded", "Batches, ", "Differences"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deep", "--data", "none=rows.jsonl"], "no adapter is named 'none'; adapters are deep"),
        (["deep", "--data", "depe=rows.jsonl"], "no adapter is named 'depe'; did you mean 'deep'?"),
        (["deep", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["deep", "--data", "deep=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["deep"], "deep does not say on which data it was made; give prompts with --data FILE"),
        (
            ["deep", "./deep", "--data", "rows.jsonl"],
            "deep, deep: adapters are told apart by the names",
        ),
        (["nowhere", "--data", "rows.jsonl"], "adapter 'nowhere' is no folder"),
        (["deep", "--data", "long.jsonl", "--base", "base"], "prompts of deep: row 2: the prompt has 4100 tokens"),
        (["deep", "--data", "rows.jsonl", "--output", "."], "is a directory"),
        (["deep", "--adapters", "1"], "Invalid value for '--adapters'"),
        ([], "Missing argument 'ADAPTER...'"),
    ],
)
def test_wrong_input_of_adapters_exits_2(shelf, monkeypatch, arguments, message):
    monkeypatch.chdir(shelf)
    save_rows(shelf / "long.jsonl", [{"prompt": "short"}, {"prompt": "x" * 4100}])
    result = run("adapters", *arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert message in result.stderr


def test_data_files_are_for_one_adapter_or_for_all_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jsonl").touch()
    names = ["x", "y", "z"]
    found = data_files(names, ("y=own.jsonl", "all.jsonl"))
    assert {name: str(path) for name, path in found.items()} == {"x": "all.jsonl", "y": "own.jsonl", "z": "all.jsonl"}
    assert data_files(names, ()) == {}
    assert {str(path) for path in data_files(names, ("a=b.jsonl",)).values()} == {"a=b.jsonl"}
    with pytest.raises(ConfigError, match=r"--data one and two: give one file for all adapters, or NAME=FILE for each"):
        data_files(names, ("one", "two"))
    with pytest.raises(ConfigError, match=r"'x' has a file already, one; give one per adapter"):
        data_files(names, ("x=one", "x=two"))
