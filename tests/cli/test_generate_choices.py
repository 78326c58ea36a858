"""`ssft generate`: forms of the text, words, and several answers to a prompt; forms in `ssft bench`."""

import json
import re

import pytest
from click.testing import CliRunner
from shelf import save_adapter
from tiny_base import byte_tokenizer, save_rows, save_tiny_base

from ssft.cli._words import Words
from ssft.cli.main import cli
from ssft.streams.config import StreamConfig

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["select", "count"]}, "n": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["kind", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    base = save_tiny_base(folder / "base", "llama", byte_tokenizer)
    save_adapter(folder / "adapter", base, streams=StreamConfig(2, 2))
    save_rows(folder / "rows.jsonl", [{"prompt": "say 1:"}, {"prompt": "say 2:"}])
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    (folder / "form.lark").write_text('start: "items " /[0-9]+/ ";"')
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(*args, adapter="adapter", command="generate"):
        common = ["--base", "base", "--dtype", "float32", "--max-new-tokens", "40"]
        return CliRunner().invoke(cli, [command, *([adapter] if adapter else []), *args, *common])

    return run


def read(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("adapter", ["adapter", None])
def test_the_text_has_the_form_that_a_file_or_an_option_says(run, adapter):
    for record in read(run("--data", "rows.jsonl", "--json-schema", "schema.json", adapter=adapter)):
        value = json.loads(record["completion"])
        assert value["kind"] in ("select", "count")
        assert 0 <= value["n"] <= 99
        assert record["calls"] < record["tokens"]
    shown = run("--prompt", "x", "--regex", "[ab]{3}-done", adapter=adapter)
    assert re.fullmatch(r"[ab]{3}-done\n", shown.stdout)
    plain = run("--prompt", "x", "--regex", "[ab]{3}-done", "--plain", adapter=adapter)
    assert plain.stdout == shown.stdout
    shown = run("--prompt", "x", "--grammar", "form.lark", "--temperature", "1.5", "--seed", "4", adapter=adapter)
    assert re.fullmatch(r"items \d+;\n|items \d+\n", shown.stdout)


@pytest.mark.parametrize("adapter", ["adapter", None])
@pytest.mark.parametrize("budget", ["fixed", "auto"])
def test_a_lookup_is_turned_on_for_a_call_with_streams_and_without(run, adapter, budget):
    options = ["--data", "rows.jsonl", "--regex", "(say [1-4]+: ){3}end", "--tree", f"budget={budget}"]
    found = {how: read(run(*options, "--tree", f"lookup={how}", adapter=adapter)) for how in ("true", "false")}
    assert [row["completion"] for row in found["true"]] == [row["completion"] for row in found["false"]]
    assert [row["calls"] for row in found["true"]] != [row["calls"] for row in found["false"]] or budget == "auto"


def test_bench_has_the_lookup_alone(run):
    options = ["--data", "rows.jsonl", "--rounds", "1", "--json", "--methods", "plain,lookup", "--tree", "max_nodes=9"]
    methods = json.loads(run(*options, command="bench").stdout)["methods"]
    assert methods["lookup"]["identical"] == 2
    assert methods["lookup"]["tokens"] == methods["plain"]["tokens"] == methods["plain"]["calls"]
    assert methods["lookup"]["calls"] < methods["plain"]["calls"]


def test_bench_compares_what_a_grammar_drafts_with_what_streams_do(run, folder):
    options = ["--data", "rows.jsonl", "--rounds", "1", "--json", "--json-schema", "schema.json"]
    result = run(*options, command="bench")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert list(facts["methods"]) == ["plain", "forced", "blind", "streaming"]
    assert all(method["identical"] == 2 for method in facts["methods"].values())
    calls = {name: method["calls"] for name, method in facts["methods"].items()}
    assert calls["streaming"] <= calls["forced"] < calls["plain"]
    assert calls["streaming"] <= calls["blind"]
    form, sha256 = facts["form"].split()
    assert form == "json_schema"
    assert len(sha256) == 64
    assert ", by a json_schema, " in run(*(o for o in options if o != "--json"), command="bench").stdout
    refused = run(*options[:4], "--methods", "plain,forced", command="bench")
    assert refused.exit_code == 2
    assert "forced is about texts of a form; give --json-schema, --regex or --grammar" in refused.stderr


def test_the_profile_times_the_grammar_where_there_is_one(run):
    options = ["profile", "adapter", "--data", "rows.jsonl", "--json"]
    for form, there in ((["--regex", "[a-c]{20}"], True), ([], False)):
        result = run(*options, *form, command="bench", adapter=None)
        assert result.exit_code == 0, result.output
        facts = json.loads(result.stdout)
        for way in ("plain", "streaming"):
            parts = facts[way]["parts"]
            assert ("grammar" in parts) == there
            assert sum(part["ms"] for part in parts.values()) == pytest.approx(facts[way]["ms_per_pass"])
            assert not there or parts["grammar"]["ms"] > 0
        assert (facts["form"] or "").startswith("regex " if there else "")


def test_several_answers_come_as_lines_with_their_number_and_seed(run, folder):
    drawn = ("--temperature", "1.5", "--seed", "7", "--num-return-sequences", "3")
    result = run("--data", "rows.jsonl", *drawn)
    lines = read(result)
    assert [(line["prompt"], line["answer"], line["seed"]) for line in lines] == [
        (f"say {row}:", number, 7 + number) for row in (1, 2) for number in range(3)
    ]
    assert result.stderr.startswith("6 answers, ") or "\n6 answers, " in result.stderr
    assert len({line["completion"] for line in lines}) == 6
    one = read(run("--prompt", "say 2:", *drawn))
    assert [line["completion"] for line in one] == [line["completion"] for line in lines[3:]]
    assert run("--prompt", "say 2:", *drawn, "--output", "answers.jsonl").stdout == ""
    saved = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in saved] == [0, 1, 2]
    alone = read(run("--data", "rows.jsonl", "--temperature", "1.5", "--seed", "8"))
    assert "answer" not in alone[0]
    assert alone[0]["completion"] == lines[1]["completion"]


def test_words_are_kept_out_and_favoured(run):
    words = ("--regex", "(name|kind|items){4}")
    free = run("--prompt", "x", *words).stdout
    first = re.match("name|kind|items", free)[0]
    without = run("--prompt", "x", *words, "--bad-words", first).stdout
    assert first not in without
    other = next(word for word in ("name", "kind", "items") if word != first)
    favoured = run("--prompt", "x", *words, "--sequence-bias", f"{other}=100").stdout
    assert favoured == other * 4 + "\n"


def test_a_word_counts_with_a_space_before_it_and_without():
    tokenizer = byte_tokenizer()
    settings = Words(("qz",), (("k=v", -2.0),)).settings(tokenizer)
    assert settings["bad_words_ids"] == [tokenizer(text)["input_ids"] for text in ("qz", " qz")]
    assert settings["sequence_bias"] == {tuple(tokenizer(text)["input_ids"]): -2.0 for text in ("k=v", " k=v")}
    assert Words((), ()).settings(tokenizer) == {}
