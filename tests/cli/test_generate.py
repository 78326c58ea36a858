"""`ssft generate`: one prompt, a file, what goes to stdout and stderr, and wrong usage."""

import gzip
import json

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, save_bundle
from tiny_base import rows, save_rows, save_tiny_base

from ssft.cli import generate
from ssft.cli.main import cli
from ssft.recipes.data import load_rows
from ssft.runtime import loader

KEYS = ["prompt", "completion", "adapter", "tokens", "calls", "seconds", "finish_reason"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def adapter(base):
    return save_bundle(base.parent / "adapter", base)


def run(*args):
    common = ["--dtype", "float32", "--max-new-tokens", "12"]
    return CliRunner().invoke(cli, ["generate", *map(str, args), *common])


def read(text):
    return [json.loads(line) for line in text.splitlines()]


def test_one_prompt_prints_its_text_alone_on_stdout(adapter, base):
    result = run(adapter, "--base", base, "--prompt", "say 1:")
    assert result.exit_code == 0, result.output
    facts = json.loads(run(adapter, "--base", base, "--prompt", "say 1:", "--json").stdout)
    assert list(facts) == KEYS
    assert result.stdout == facts["completion"] + "\n"
    assert facts["adapter"] == "adapter"
    assert facts["calls"] <= facts["tokens"] == 12
    assert f"12 tokens in {facts['calls']} calls" in result.stderr
    assert "finished by length" in result.stderr


def test_streams_plain_and_a_tree_give_the_same_text(adapter, base):
    prompt = ("--base", base, "--prompt", "say 1:", "--json")
    streamed, plain, chain = (
        json.loads(run(adapter, *prompt, *more).stdout) for more in ((), ("--plain",), ("--tree", "kind=chain"))
    )
    assert streamed["completion"] == plain["completion"] == chain["completion"]
    assert plain["calls"] == plain["tokens"]
    assert streamed["calls"] < plain["calls"]


def test_the_text_of_a_prompt_is_shown_piece_by_piece(adapter, base, monkeypatch):
    pieces, real = [], generate.click.echo

    def echo(message="", **options):
        if options.get("nl") is False:
            pieces.append(message)
        real(message, **options)

    monkeypatch.setattr(generate.click, "echo", echo)
    result = run(adapter, "--base", base, "--prompt", "say 1:")
    facts = json.loads(run(adapter, "--base", base, "--prompt", "say 1:", "--json").stdout)
    assert "".join(pieces) == facts["completion"]
    assert 1 < len(pieces) <= facts["calls"]
    assert "tokens per second" in result.stderr


def test_a_stop_text_ends_every_answer_before_it(adapter, base, tmp_path):
    whole = json.loads(run(adapter, "--base", base, "--prompt", "say 1:", "--json").stdout)["completion"]
    stop = whole[len(whole) // 2 :][:2]
    expected = whole[: whole.index(stop)]
    shown = run(adapter, "--base", base, "--prompt", "say 1:", "--stop", stop)
    assert shown.stdout == expected + "\n"
    assert "finished by stop" in shown.stderr
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "say 1:", "completion": "x"}])
    (record,) = read(run(adapter, "--base", base, "--data", data, "--stop", "never said", "--stop", stop).stdout)
    assert (record["completion"], record["finish_reason"]) == (expected, "stop")


def test_an_empty_stop_text_is_refused(adapter, base):
    result = run(adapter, "--base", base, "--prompt", "say 1:", "--stop", "")
    assert result.exit_code == 2
    assert "stop strings [''] hold an empty one" in result.stderr


def test_the_bare_base_decodes_plainly(base):
    facts = json.loads(run("--base", base, "--prompt", "say 1:", "--json").stdout)
    assert facts["adapter"] is None
    assert facts["calls"] == facts["tokens"]


def test_a_file_becomes_jsonl_in_its_own_order(adapter, base, tmp_path):
    values = rows(5)
    values[2]["prompt"] = "a much longer prompt, in the midst of short ones:"
    data = save_rows(tmp_path / "rows.jsonl", values)
    result = run(adapter, "--base", base, "--data", data, "--batch-size", "2")
    assert result.exit_code == 0, result.output
    records = read(result.stdout)
    assert [record["prompt"] for record in records] == [row["prompt"] for row in values]
    assert all(list(record) == KEYS for record in records)
    assert "5 prompts, 60 tokens" in result.stderr
    alone = json.loads(run(adapter, "--base", base, "--prompt", values[2]["prompt"], "--json").stdout)
    assert records[2]["completion"] == alone["completion"]


def test_output_limit_messages_and_gzip(adapter, base, tmp_path):
    chat = [{"messages": [{"role": "user", "content": f"hello {i}"}]} for i in range(3)]
    data, output = tmp_path / "chat.jsonl.gz", tmp_path / "new" / "out.jsonl"
    data.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in chat).encode()))
    result = run(adapter, "--base", base, "--data", data, "--limit", "2", "--output", output)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert [record["prompt"] for record in read(output.read_text())] == [
        f"user: hello {i}\nassistant: " for i in range(2)
    ]
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]


def test_rows_for_training_have_every_prompt_once_and_whole_answers_only(tmp_path, monkeypatch):
    adapted = fake_adapted()
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    prompts = ["5 6", "7 8 9", "5 6", "10 11"]
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": prompt, "completion": "no"} for prompt in prompts])
    answers = {row["prompt"]: row["completion"].split() for row in read(run("any", "--data", data).stdout)}
    # A token of one answer that no other answer has becomes the end of text: that answer alone is whole.
    others = {token for prompt in ("5 6", "10 11") for token in answers[prompt]}
    end = next(token for token in answers["7 8 9"] if token not in others)
    adapted.eos_token_ids = {int(end)}
    output = tmp_path / "own.jsonl"
    result = run("any", "--data", data, "--for-training", "--output", output)
    assert result.exit_code == 0, result.output
    assert [row["prompt"] for row in read(output.read_text())] == ["7 8 9"]
    assert "3 prompts" in result.stderr
    assert "2 that reached --max-new-tokens 12 are left out" in result.stderr
    assert len(load_rows(output)) == 1
    adapted.eos_token_ids = set()
    result = run("any", "--data", data, "--for-training", "--output", output)
    assert result.exit_code == 2
    assert "all 3 answers reached --max-new-tokens 12" in result.stderr
    assert len(read(output.read_text())) == 1


def test_chats_make_no_rows_for_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: fake_adapted())
    data = save_rows(tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": "5 6"}]}])
    result = run("any", "--data", data, "--for-training")
    assert result.exit_code == 2
    assert "whose template training would apply again" in " ".join(result.stderr.split())


def test_a_failure_leaves_the_old_output(adapter, base, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    output.write_text("before")
    adapted = fake_adapted()
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    monkeypatch.setattr(adapted.tokenizer, "decode", lambda *_, **__: 1 / 0, raising=False)
    result = run("any", "--prompt", "5 6", "--output", output)
    assert isinstance(result.exception, ZeroDivisionError)
    assert output.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", "x"], "neither an adapter nor a base was given; name an adapter folder or --base"),
        (["a"], "no prompt: give --prompt TEXT"),
        (["a", "--prompt", "x", "--data", "FILE"], "--prompt and --data exclude each other"),
        (["a", "--prompt", ""], "--prompt is empty"),
        (["a", "--prompt", "x", "--for-training"], "--for-training makes a file of training rows"),
        (["a", "--prompt", "x", "--limit", "2"], "--limit counts rows of a --data file"),
        (["a", "--data", "FILE", "--json"], "--data gives JSONL already"),
        (["a", "--prompt", "x", "--tree", "max_node=3"], "did you mean 'max_nodes'?"),
        (["a", "--data", "nowhere.jsonl"], "does not exist"),
        (["nowhere", "--prompt", "x"], "adapter 'nowhere' is no folder"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_do(args, message, adapter, tmp_path):
    data = save_rows(tmp_path / "rows.jsonl", rows(1))
    result = run(*({"FILE": data, "a": adapter}.get(arg, arg) for arg in args))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_prompt_longer_than_the_context_is_named_by_its_row(monkeypatch, tmp_path):
    adapted = fake_adapted(max_position_embeddings=8)
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "5 6"}, {"prompt": " ".join(["5"] * 8)}])
    result = run("any", "--data", data)
    assert result.exit_code == 2
    assert "row 2: the prompt has 8 tokens" in result.stderr
