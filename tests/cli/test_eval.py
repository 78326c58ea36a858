"""`ssft eval`: metrics on a tiny base, the table, the JSON, the file of rows, and wrong input."""

import hashlib
import json
import shutil
import sys

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, save_bundle
from tiny_base import save_rows, save_tiny_base

from ssft.bench.metrics.rouge import TYPES as ROUGE_TYPES
from ssft.bench.metrics.rouge import score as rouge
from ssft.bench.statistics import mean_interval
from ssft.bundle.read import read_bundle
from ssft.cli.main import cli
from ssft.runtime import loader

PROMPTS = ["say 1:", "a much longer prompt, in the midst of short ones:", "say 2:", "and 3"]
ROW_KEYS = ["prompt", "completion", "references", "metrics", "tokens", "calls", "finish_reason"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def adapter(base):
    return save_bundle(base.parent / "adapter", base)


def run(*args):
    common = ["--dtype", "float32", "--max-new-tokens", "12"]
    return CliRunner().invoke(cli, ["eval", *map(str, args), *common])


def facts_of(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def completions(adapter, base, tmp_path_factory):
    """What the adapter makes of each prompt, by another command."""
    data = save_rows(tmp_path_factory.mktemp("prompts") / "rows.jsonl", [{"prompt": text} for text in PROMPTS])
    arguments = [adapter, "--base", base, "--data", data, "--dtype", "float32", "--max-new-tokens", "12"]
    done = CliRunner().invoke(cli, ["generate", *map(str, arguments)])
    texts = [json.loads(line)["completion"] for line in done.stdout.splitlines()]
    assert len({text.strip() for text in texts}) == len(PROMPTS), texts
    return texts


@pytest.fixture
def data(completions, tmp_path):
    """The second row's completion is another's, the fourth's is right but for white space at its ends."""
    expected = [completions[0], completions[2], completions[2], f"\n {completions[3].strip()} "]
    pairs = zip(PROMPTS, expected, strict=True)
    return save_rows(tmp_path / "rows.jsonl", [{"prompt": p, "completion": c} for p, c in pairs])


@pytest.fixture
def canned(monkeypatch):
    """Make the model say given texts, row by row; its passes are those of a tiny random model."""

    def put(*texts, **changes):
        adapted, said = fake_adapted(**changes), iter(texts)
        monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
        monkeypatch.setattr(adapted.tokenizer, "decode", lambda *_, **__: next(said), raising=False)
        return adapted

    return put


@pytest.mark.parametrize("batch_size", [1, 3])
def test_exact_match_of_completions_in_the_files_order(adapter, base, data, completions, tmp_path, batch_size):
    output = tmp_path / "new" / "out.jsonl"
    facts = facts_of(adapter, "--base", base, "--data", data, "--batch-size", batch_size, "--output", output)
    assert (facts["rows"], facts["metric"], facts["metrics"]) == (4, "exact", {"exact_match": 75})
    assert facts["intervals"] == {"exact_match": list(mean_interval([100, 0, 100, 100]))}
    assert facts["scores"] == {"exact_match": [100, 0, 100, 100]}
    assert facts["calls"] < facts["tokens"] == 48
    assert facts["tokens_per_call"] == 48 / facts["calls"]
    assert (facts["cut_off"], facts["adapter"], facts["streaming"]) == (4, "adapter", True)
    assert (facts["precision"], facts["batch_size"], facts["max_new_tokens"]) == ("float32", batch_size, 12)
    records = read(output)
    assert all(list(record) == ROW_KEYS for record in records)
    assert [record["prompt"] for record in records] == PROMPTS
    assert [record["completion"] for record in records] == completions
    assert [record["metrics"]["exact_match"] for record in records] == [100, 0, 100, 100]
    assert records[1]["references"] == [completions[2]]
    assert [sum(record[key] for record in records) for key in ("tokens", "calls")] == [48, facts["calls"]]
    assert {record["finish_reason"] for record in records} == {"length"}
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]


def test_the_facts_go_to_a_file_with_whose_they_are(adapter, base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ssft", "eval", "adapter", "--limit", "2"])
    path = tmp_path / "new" / "facts.json"
    facts = facts_of(adapter, "--base", base, "--data", data, "--limit", "2", "--facts", path)
    assert json.loads(path.read_text()) == facts
    assert (facts["kind"], facts["command"]) == ("eval", "ssft eval adapter --limit 2")
    assert facts["adapter_sha256"] == read_bundle(adapter).weights_sha256
    assert facts["data"] == {"name": "rows.jsonl", "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    assert facts["tree"]["max_nodes"] == 48
    bare = facts_of("--base", base, "--data", data, "--limit", "1")
    assert (bare["adapter"], bare["adapter_sha256"]) == (None, "")


def test_plain_and_a_tree_give_the_same_texts(adapter, base, data):
    arguments = (adapter, "--base", base, "--data", data)
    streamed, plain, chain = (facts_of(*arguments, *more) for more in ((), ("--plain",), ("--tree", "kind=chain")))
    assert streamed["metrics"] == plain["metrics"] == chain["metrics"]
    assert plain["calls"] == plain["tokens"] == streamed["tokens"]
    assert (plain["streaming"], chain["tree"]["kind"]) == (False, "chain")


def test_the_bare_base_can_be_measured(base, data):
    facts = facts_of("--base", base, "--data", data)
    assert (facts["adapter"], facts["streaming"], facts["tokens_per_call"]) == (None, False, 1)


def test_the_table_says_metric_interval_and_tokens_per_call(adapter, base, data, tmp_path):
    result = run(adapter, "--base", base, "--data", data, "--metric", "exact", "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0].startswith("adapter: 4 rows, metric exact, float32 on")
    assert lines[1:3] == ["metric % 95 % interval", "exact_match 75.00 25.00 - 100.00"]
    facts = facts_of(adapter, "--base", base, "--data", data)
    assert lines[3] == f"48 tokens in {facts['calls']} calls, {facts['tokens_per_call']:.2f} tokens per call"
    assert lines[4].startswith("4 of 4 completions were cut off at their longest; raise --max-new-tokens (12)")
    assert "metric rouge, float32" in run(adapter, "--base", base, "--data", data, "--metric", "rouge").stdout


def test_several_references_mean_rouge_of_the_best(canned, tmp_path):
    texts = ["The cat sat. It was glad.", ""]
    references = [["A dog.", "It was glad. The cat sat."], ["the cat"]]
    rows = [{"prompt": "5 6", "references": texts} for texts in references]
    data, output = save_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    canned(*texts)
    facts = facts_of("any", "--data", data, "--output", output)
    expected = rouge(texts[0], references[0])
    assert facts["metric"] == "rouge"
    assert list(facts["metrics"]) == list(facts["intervals"]) == list(ROUGE_TYPES)
    assert facts["metrics"] == pytest.approx({name: value / 2 for name, value in expected.items()})
    assert facts["metrics"]["rougeLsum"] == pytest.approx(50)
    first, second = read(output)
    assert first["metrics"] == pytest.approx(expected, abs=1e-4)
    assert (first["completion"], first["references"]) == (texts[0], references[0])
    assert second["metrics"] == dict.fromkeys(ROUGE_TYPES, 0)
    canned(*texts)
    assert "metric rouge (auto: the references are texts)" in run("any", "--data", data).stdout
    canned(texts[0], "the cat\n")
    assert facts_of("any", "--data", data, "--metric", "exact")["metrics"] == {"exact_match": 50}


def test_sql_is_also_compared_in_its_normal_form(canned, tmp_path):
    completion = 'SELECT a FROM t WHERE b = "X" AND c = 1'
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "5 6", "completion": completion}] * 4)
    texts = [completion, "select a from t where c=1 and b='X';", completion.lower(), ""]
    canned(*texts)
    facts = facts_of("any", "--data", data)
    assert facts["metrics"] == {"exact_match": 25, "normalised_match": 50}
    assert list(facts["intervals"]) == ["exact_match", "normalised_match"]
    canned(*texts)
    assert "metric sql (auto: the references are SQL, one each)" in run("any", "--data", data).stdout
    save_rows(data, [{"prompt": "5 6", "completion": completion}] * 3 + [{"prompt": "5", "completion": "no SQL"}])
    canned(*texts)
    assert facts_of("any", "--data", data, "--metric", "exact")["metrics"] == {"exact_match": 25}


def test_json_is_compared_by_field(canned, tmp_path):
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "5 6", "completion": '{"city": "Rome", "n": 2}'}] * 4)
    texts = ['{"n": 2, "city": "Rome"}', '{"city": "Rome", "n": 3}', '{"city": "Rome"', '{"city": "Oslo", "n": 2.0}\n']
    canned(*texts)
    facts = facts_of("any", "--data", data)
    assert (facts["metric"], facts["metrics"]) == ("json", {"valid_json": 75, "field_match": 50, "object_match": 25})
    canned(*texts)
    assert "metric json (auto: the references are JSON objects)" in run("any", "--data", data).stdout


def test_rows_may_have_the_columns_that_the_adapter_was_trained_with(adapter, base, tmp_path):
    own = shutil.copytree(adapter, tmp_path / "own")
    (own / "run.yaml").write_text('data:\n  prompt_template: "{text}!"\n  columns: {completion: label}\n')
    (tmp_path / "mine.csv").write_text("text,label\nsay 1,yes\n")
    output = tmp_path / "out.jsonl"
    facts_of(own, "--base", base, "--data", tmp_path / "mine.csv", "--output", output)
    assert [(row["prompt"], row["references"]) for row in read(output)] == [("say 1!", ["yes"])]
    (own / "run.yaml").write_text("data: {columns: 1}\n")
    done = run(own, "--base", base, "--data", tmp_path / "mine.csv")
    assert done.exit_code == 2
    assert "the columns that" in done.stderr
    assert "data.columns=1, expected dict[str, str]" in done.stderr
    assert "the columns are text, label" in done.stderr


def test_messages_and_the_limit(adapter, base, tmp_path):
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    data, output = save_rows(tmp_path / "rows.jsonl", [{"messages": chat}] * 3), tmp_path / "out.jsonl"
    facts = facts_of(adapter, "--base", base, "--data", data, "--limit", "2", "--output", output)
    assert (facts["rows"], facts["metrics"]) == (2, {"exact_match": 0})
    assert [(r["prompt"], r["references"]) for r in read(output)] == [("user: hello\nassistant: ", ["yes"])] * 2


def test_a_failure_leaves_the_old_output(canned, tmp_path):
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "5 6", "completion": "x"}] * 2)
    output = tmp_path / "out.jsonl"
    output.write_text("before")
    canned("only one text")
    assert run("any", "--data", data, "--output", output).exception is not None
    assert output.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


@pytest.mark.parametrize(
    ("row", "args", "message"),
    [
        ({"prompt": "5"}, ["any"], "row 2: neither `completion` nor `references`"),
        ({"prompt": "5", "references": ["x", ""]}, ["any"], "row 2: reference 2 is empty"),
        ({"prompt": "5", "references": "x"}, ["any"], "line 2: `references` must be a list of strings"),
        ({"completion": "5"}, ["any"], "line 2: the columns are completion, which is none of the forms"),
        ({"prompt": "5", "completion": "x"}, ["any", "--output", "rows.jsonl/out"], "its folder cannot be made"),
        (
            {"prompt": "5", "completion": "x"},
            ["any", "--facts", "rows.jsonl/x"],
            "--facts rows.jsonl/x: its folder cannot",
        ),
        ({"prompt": "5", "completion": "x"}, ["any", "--metric", "bleu"], "'bleu' is not one of"),
        ({"prompt": "5", "completion": "x"}, ["any", "--metric", "json"], "needs references that are JSON objects"),
        ({"prompt": "5", "completion": "x"}, ["any", "--tree", "max_node=3"], "did you mean 'max_nodes'?"),
    ],
)
def test_wrong_input_is_told_before_the_base_is_loaded(row, args, message, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "5", "completion": "x"}, row])
    result = run(*args, "--data", data)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_data_is_required(adapter):
    result = run(adapter)
    assert result.exit_code == 2
    assert "Missing option '--data'" in result.stderr


def test_a_prompt_longer_than_the_context_is_named_by_its_row(canned, tmp_path):
    canned(max_position_embeddings=8)
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": text, "completion": "x"} for text in ("5", "5 " * 8)])
    result = run("any", "--data", data)
    assert result.exit_code == 2
    assert "row 2: the prompt has 8 tokens" in result.stderr
