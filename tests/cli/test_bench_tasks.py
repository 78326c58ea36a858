"""`ssft bench tasks`: the report of several adapters, their twins, their data, and wrong input."""

import json
import sys

import pytest
import torch
from click.testing import CliRunner
from fake_adapted import save_bundle
from methods_that_fail import interrupt_plain, wrong_tokens
from shelf import save_adapter
from tiny_base import save_rows, save_tiny_base

from ssft.bench import suite
from ssft.bench.answers import encode_rows
from ssft.bench.methods import generate_static, method_names, streaming
from ssft.bundle.read import read_bundle
from ssft.cli.main import cli
from ssft.errors import ConfigError
from ssft.results.reading import read_comparison
from ssft.runtime.loader import load_adapted

NEW_TOKENS = 3
QUESTIONS = [{"prompt": f"say {i}:", "completion": "yes"} for i in range(5)]
FILES = ["report.html", "report.json", "report.png"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two adapters under adapters/, the second without streams; rows for both; a twin of the first."""
    folder = tmp_path_factory.mktemp("tasks")
    base = save_tiny_base(folder / "base")
    data = save_rows(folder / "rows.jsonl", QUESTIONS)
    own = save_rows(folder / "own.jsonl", QUESTIONS[:3])
    save_bundle(folder / "adapters" / "first", base)
    (folder / "adapters" / "first" / "run.yaml").write_text(f"data:\n  train: {data}\n  validation: {own}\n")
    save_adapter(folder / "adapters" / "second", base)
    (folder / "adapters" / "README.md").write_text("no adapter\n")
    save_adapter(folder / "peers" / "first" / "twin", base)
    save_rows(folder / "prompts.jsonl", [{"prompt": "say 7:"}])
    adapter, twin = (
        answer(folder / path, base, QUESTIONS[2]["prompt"]) for path in ("adapters/first", "peers/first/twin")
    )
    assert twin.strip() != adapter.strip() != ""
    save_rows(folder / "known.jsonl", [*QUESTIONS[:2], {**QUESTIONS[2], "completion": twin}, *QUESTIONS[3:]])
    return folder


def answer(folder, base, prompt):
    """What an adapter answers."""
    adapted = load_adapted(str(folder), str(base), dtype="float32", device="cpu")
    prompts = encode_rows(adapted, [{"prompt": prompt}])
    (result,) = adapted.complete(prompts, max_new_tokens=NEW_TOKENS, speculate=False)
    return adapted.decode(result.token_ids)


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def run(*args):
    common = ["--dtype", "float32", "--base", "base", "--max-new-tokens", NEW_TOKENS, "--rounds", 1, "--limit", 2]
    return CliRunner().invoke(cli, ["bench", "tasks", *map(str, args), *map(str, common)])


def no_compiler(*_):
    """Compiling takes longer than all the rest."""
    raise ConfigError("no compiler in this test")


@pytest.fixture(scope="module")
def report(place, tmp_path_factory):
    """The whole of it: every method, a twin for the first adapter, none for the second."""
    output = tmp_path_factory.mktemp("report") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(generate_static.Method, "__init__", no_compiler)
        patch.setattr(sys, "argv", ["ssft", "bench", "tasks", "--output", "/somewhere/report"])
        arguments = ["--data", "first=known.jsonl", "--data", "prompts.jsonl", "--peers", "peers", "--quality-limit", 4]
        result = run(*arguments, "--output", output, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return output, result


def test_all_adapters_in_the_folder_with_every_method_that_runs(report):
    output, result = report
    assert sorted(path.name for path in output.iterdir()) == FILES
    facts = json.loads(result.stdout)
    assert facts == json.loads((output / "report.json").read_text())
    assert list(facts["tasks"]) == ["first", "second"]
    first, second = (task["bench"] for task in facts["tasks"].values())
    assert (first["rows"], first["rounds"], first["max_new_tokens"], first["precision"]) == (2, 1, 3, "float32")
    for bench in (first, second):
        assert {*bench["methods"], *bench["left_out"]} == set(method_names())
        assert {name: method["identical"] for name, method in bench["methods"].items() if method["lossless"]} == {
            name: bench["rows"] for name, method in bench["methods"].items() if method["lossless"]
        }
    assert "streaming" in first["methods"]
    assert "no streams" in second["left_out"]["streaming"]
    assert (second["rows"], facts["interrupted"]) == (1, False)
    assert read_comparison(output / "report.json").tasks["first"].bench.rows == 2


def test_quality_beside_the_twin(report):
    output, result = report
    tasks = json.loads(result.stdout)["tasks"]
    quality = tasks["first"]["quality"]
    assert (quality["rows"], quality["metric"]) == (4, "exact")
    # One right answer of four is the twin's own.
    assert (quality["adapter"], quality["twin"]) == ({"exact_match": 0}, {"exact_match": 25})
    assert quality["differences"] == {"exact_match": -25}
    assert tasks["second"]["quality"] is None
    assert quality["twin_unlike"] == ["trained on data that are not told", "settings that are not told"]
    page = (output / "report.html").read_text()
    assert "trained on data that are not told" in page
    assert "the same training, data and seed" not in page


def test_what_it_tells_on_the_way_and_what_made_it(report, place):
    _, result = report
    lines = result.stderr.splitlines()
    twin = "second: no twin to compare quality with; make it: ssft train adapters/second/run.yaml method=lora --output"
    assert f"{twin} peers/second/twin" in lines
    assert any(line.startswith("1/2 first: 2 prompts with plain, ") for line in lines)
    assert any(line.startswith("2/2 second: done in ") for line in lines)
    facts = json.loads(result.stdout)
    assert facts["command"] == "ssft bench tasks --output report"
    first = facts["tasks"]["first"]["bench"]
    assert (first["command"], first["adapter_sha256"]) == (
        facts["command"],
        read_bundle(place / "adapters" / "first").weights_sha256,
    )


def test_the_tables_of_named_adapters_with_their_own_rows(tmp_path):
    options = ["--methods", "streaming", "--quality-limit", 0, "--output", tmp_path]
    result = run("adapters/first", *options)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "first: speed-up against plain" in result.stdout
    assert "\nstreaming " in result.stdout
    assert f"report: {tmp_path / 'report.html'}" in result.stdout
    assert "generate" not in result.stdout
    assert read_comparison(tmp_path / "report.json").tasks["first"].bench.rows == 2


def test_an_interrupted_run_reports_what_it_has_and_exits_130(tmp_path, monkeypatch):
    interrupt_plain(monkeypatch, 1, "second")
    rows = ["--data", "rows.jsonl"]
    result = run(*rows, "--methods", "plain", "--quality-limit", 0, "--output", tmp_path)
    assert result.exit_code == 130, (result.output, result.exception)
    left = read_comparison(tmp_path / "report.json")
    assert (list(left.tasks), left.interrupted) == (["first"], True)
    assert "first: speed-up against plain" in result.stdout


def test_a_broken_promise_fails_after_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming.Method, "run", wrong_tokens)
    result = run("adapters/first", "--methods", "streaming", "--quality-limit", 0, "--output", tmp_path)
    assert result.exit_code == 1, (result.output, result.exception)
    broken = "first: streaming does not keep its promise: its text differs from plain's on 2 of 2 prompts"
    assert broken in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_a_failing_task_leaves_the_finished_ones(tmp_path, monkeypatch):
    measure, seen = suite.measure, []

    def failing(*args, **settings):
        seen.append(1)
        if len(seen) > 1:
            raise torch.OutOfMemoryError("no memory")
        return measure(*args, **settings)

    monkeypatch.setattr(suite, "measure", failing)
    rows = ["--data", "rows.jsonl"]
    result = run(*rows, "--methods", "plain", "--quality-limit", 0, "--output", tmp_path)
    assert isinstance(result.exception, torch.OutOfMemoryError)
    left = read_comparison(tmp_path / "report.json")
    assert (list(left.tasks), left.interrupted) == (["first"], True)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "rows.jsonl", "--data", "own.jsonl"], "give one file for all adapters, or NAME=FILE for each"),
        (["--data", "frist=rows.jsonl"], "no adapter is named 'frist'; did you mean 'first'?"),
        (["adapters/second"], "adapters/second does not say on which data it was made; give prompts with --data FILE"),
        (["adapters/first", "--data", "none.jsonl"], "none.jsonl: no such file"),
        (["adapters/first", "--peers", "nowhere"], "--peers nowhere: no such folder; give the folder that holds first"),
        (["adapters/first", "--peers", "peers/first"], "peers/first holds twin itself; give the folder above it"),
        (["adapters/first", "--methods", "all,plain"], "--methods all,plain: all stands alone"),
        (["adapters/first", "--methods", "streming"], "did you mean 'streaming'?"),
        (["adapters/first", "./adapters/first"], "adapters are told apart by the names"),
        (["nowhere", "--data", "rows.jsonl"], "adapter 'nowhere' is no folder"),
        (["adapters/first", "--output", "rows.jsonl"], "is a file"),
        (["adapters/first", "--output", "rows.jsonl/deep"], "its folder cannot be made"),
    ],
)
def test_wrong_input_is_told_before_a_base_is_loaded(arguments, message, tmp_path, monkeypatch):
    from ssft.runtime import loader

    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: pytest.fail("loaded"))
    result = run(*arguments, *([] if "--output" in arguments else ["--output", tmp_path]))
    assert result.exit_code == 2, (result.output, result.exception)
    assert message in " ".join(result.stderr.split())


def test_a_damaged_twin_is_told_before_a_base_is_loaded(place, tmp_path, monkeypatch):
    from ssft.runtime import loader

    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: pytest.fail("loaded"))
    twin = tmp_path / "peers" / "first" / "twin"
    twin.mkdir(parents=True)
    (twin / "adapter_config.json").write_text("{")
    result = run("adapters/first", "--peers", tmp_path / "peers", "--output", tmp_path / "out")
    assert result.exit_code == 2, (result.output, result.exception)
    assert "adapter_config.json" in result.stderr


def test_no_adapter_to_be_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "no adapter was named, and adapters/ here holds none" in result.stderr
    assert not (tmp_path / "out").exists()
    assert "Missing option '--output'" in run().stderr
