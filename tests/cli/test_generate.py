"""`ssft generate`: one prompt, a file, what goes to stdout and stderr, and wrong usage."""

import gzip
import json
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, save_bundle
from tiny_base import rows, save_rows, save_tiny_base

from ssft.cli import generate
from ssft.cli.main import cli
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


def test_a_seed_gives_one_text_with_streams_plainly_and_in_a_batch(adapter, base, tmp_path):
    drawn = ("--base", base, "--temperature", "1.2", "--top-p", "0.95", "--repetition-penalty", "1.1", "--seed", "7")
    streamed, plain, other = (
        json.loads(run(adapter, *drawn, "--prompt", "say 1:", "--json", *more).stdout)
        for more in ((), ("--plain",), ("--seed", "8"))
    )
    assert list(streamed) == [*KEYS, "seed"]
    assert (streamed["completion"], streamed["seed"]) == (plain["completion"], 7)
    assert streamed["calls"] < plain["calls"]
    assert streamed["completion"] != other["completion"]
    assert run(adapter, *drawn, "--prompt", "say 1:").stdout == streamed["completion"] + "\n"
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "say 2:"}, {"prompt": "say 1:"}])
    lines = read(run(adapter, *drawn, "--data", data, "--batch-size", "2").stdout)
    assert [line["completion"] for line in lines][1] == streamed["completion"]


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


def test_a_failure_leaves_the_old_output(adapter, base, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    output.write_text("before")
    adapted = fake_adapted()
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    monkeypatch.setattr(adapted.tokenizer, "decode", lambda *_, **__: 1 / 0, raising=False)
    result = run(adapter, "--prompt", "5 6", "--output", output)
    assert isinstance(result.exception, ZeroDivisionError)
    assert output.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", "x"], "neither an adapter nor a base was given; name an adapter folder or --base"),
        (["a"], "no prompt: give --prompt TEXT or --row JSON"),
        (["a", "--prompt", "x", "--data", "FILE"], "--prompt and --data exclude each other"),
        (["a", "--prompt", ""], "--prompt is empty"),
        (["a", "--prompt", "x", "--limit", "2"], "--limit counts rows of a --data file"),
        (["a", "--data", "FILE", "--json"], "--data gives JSONL already"),
        (["a", "--prompt", "x", "--tree", "max_node=3"], "did you mean 'max_nodes'?"),
        (["a", "--row", "{}", "--prompt", "x"], "--row takes the place of --prompt and --data"),
        (["--base", "b", "--row", "{}"], "--row is put into form by an adapter's run.yaml; name the adapter"),
        (["a", "--row", "{"], "--row is no JSON (Expecting property name"),
        (["a", "--row", "[1]"], "--row is '[1]'; give one object"),
        (["a", "--data", "nowhere.jsonl"], "does not exist"),
        (["nowhere", "--prompt", "x"], "adapter 'nowhere' is no folder"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_do(args, message, adapter, tmp_path):
    data = save_rows(tmp_path / "rows.jsonl", rows(1))
    result = run(*({"FILE": data, "a": adapter}.get(arg, arg) for arg in args))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.fixture
def of_columns(adapter, tmp_path):
    """The adapter as if it had been trained with a template over two columns."""
    folder = shutil.copytree(adapter, tmp_path / "of_columns")
    (folder / "run.yaml").write_text("base: base\ndata:\n  prompt_template: '{table}; say {number}:'\nlora:\n  r: 3\n")
    return folder


def test_a_row_becomes_the_prompt_that_the_adapter_was_trained_with(of_columns, base):
    row = json.dumps({"number": 1, "table": "{x}", "more": None})
    made = json.loads(run(of_columns, "--base", base, "--row", row, "--json").stdout)
    given = json.loads(run(of_columns, "--base", base, "--prompt", "{x}; say 1:", "--json").stdout)
    assert made["prompt"] == "{x}; say 1:"
    assert made["completion"] == given["completion"]
    assert run(of_columns, "--base", base, "--row", row).stdout == made["completion"] + "\n"


def test_columns_that_a_row_lacks_are_named(of_columns):
    result = run(of_columns, "--row", '{"number": 1}')
    assert result.exit_code == 2
    assert re.search(
        "--row for .*of_columns: the row: the columns are number, .* data.prompt_template names 'table'",
        result.stderr,
    )


def test_a_row_of_an_adapter_without_a_template_is_a_prompt(adapter, base):
    made = json.loads(run(adapter, "--base", base, "--row", '{"prompt": "say 1:"}', "--json").stdout)
    assert made["prompt"] == "say 1:"
    result = run(adapter, "--row", '{"number": 1}')
    assert result.exit_code == 2
    assert "a prompt needs `prompt` or `messages`" in result.stderr


def test_a_damaged_run_yaml_is_named(of_columns):
    (of_columns / "run.yaml").write_text("data:\n  prompt_template: '{a.b}'\n")
    result = run(of_columns, "--row", "{}")
    assert result.exit_code == 2
    assert "run.yaml: data.prompt_template='{a.b}'" in result.stderr


def test_a_chat_is_one_message_in_the_template_of_the_base(adapter, base, tmp_path):
    chat = json.loads(run(adapter, "--base", base, "--prompt", "hello", "--chat", "--json").stdout)
    assert chat["prompt"] == "user: hello\nassistant: "
    data = save_rows(
        tmp_path / "rows.jsonl", [{"messages": [{"role": "user", "content": "hello"}]}, {"prompt": "hello"}]
    )
    records = read(run(adapter, "--base", base, "--data", data, "--chat").stdout)
    assert [record["completion"] for record in records] == [chat["completion"]] * 2


def test_raw_text_for_an_adapter_of_chats_is_said(adapter, base, tmp_path):
    note = "was trained on chats, and --prompt is raw text; --chat makes it one"
    folder = shutil.copytree(adapter, tmp_path / "chats")
    (folder / "provenance.json").write_text('{"form": "messages"}')
    assert note in run(folder, "--base", base, "--prompt", "hello").stderr
    assert note not in run(folder, "--base", base, "--prompt", "hello", "--chat").stderr
    assert note not in run(adapter, "--base", base, "--prompt", "hello").stderr


def test_a_base_without_a_chat_template_takes_no_chats(adapter, monkeypatch):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: fake_adapted())
    result = run(adapter, "--prompt", "5 6", "--chat")
    assert result.exit_code == 2
    assert "--chat: the tokenizer of the base has no chat template; leave --chat out" in result.stderr


def test_what_is_wrong_is_said_before_the_libraries_are_imported(adapter, tmp_path):
    (tmp_path / "rows.jsonl").write_text("{")
    calls = [["nowhere", "--prompt", "x"], [adapter, "--prompt", "x", "--tree", "kind=star"]]
    calls += [[adapter, "--data", tmp_path / "rows.jsonl"], [adapter, "--prompt", "x", "--tree", "prune_below=0.1"]]
    code = (
        "import json, sys\nfrom ssft.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n    try:\n        main(['generate', *words])\n"
        "    except SystemExit as ended:\n"
        "        print(ended.code, *{'peft', 'transformers', 'datasets'} & set(sys.modules))"
    )
    words = json.dumps([[str(word) for word in call] for call in calls])
    done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == [*["2"] * len(calls), ""], done.stderr
    assert "tree.prune_below=0.1, tree.prune_keep=0: the adapter has no prune head" in done.stderr
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["error:"] * len(calls)


def test_a_prompt_longer_than_the_context_is_named_by_its_row(adapter, monkeypatch, tmp_path):
    adapted = fake_adapted(max_position_embeddings=8)
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    data = save_rows(tmp_path / "rows.jsonl", [{"prompt": "5 6"}, {"prompt": " ".join(["5"] * 8)}])
    result = run(adapter, "--data", data)
    assert result.exit_code == 2
    assert "row 2: the prompt has 8 tokens" in result.stderr
