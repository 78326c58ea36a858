"""`ssft vocabulary`: what is measured, what is written, and wrong input."""

import json

import pytest
from click.testing import CliRunner
from fake_adapted import save_bundle
from safetensors.torch import load_file
from shelf import save_adapter
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bundle.read import read_bundle
from ssft.cli.main import cli
from ssft.runtime.loader import load_adapted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, an adapter, rows to learn from, and others whose completions have the letter x, which those lack."""
    folder = tmp_path_factory.mktemp("vocabulary")
    base = save_tiny_base(folder / "base")
    save_bundle(folder / "adapter", base)
    save_adapter(folder / "plain", base)
    save_rows(folder / "train.jsonl", rows(20))
    held = [{"prompt": "say x:", "completion": "xx ab"}, {"prompt": "say:", "completion": "done x"}]
    save_rows(folder / "held.jsonl", held)
    return folder


def run(folder, adapter="adapter", *args):
    files = ["--data", folder / "train.jsonl", "--held-back", folder / "held.jsonl", "--base", folder / "base"]
    common = ["--dtype", "float32", "--max-new-tokens", "12"]
    return CliRunner().invoke(cli, ["vocabulary", *map(str, [folder / adapter, *files, *common, *args])])


def test_sizes_are_compared(folder):
    result = run(folder, "adapter", "--size", "12", "--size", "30", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["adapter"], facts["output"]) == ("vocabulary", "adapter", None)
    assert (facts["data"]["name"], facts["held_back"]["name"]) == ("train.jsonl", "held.jsonl")
    whole, few, many = facts["vocabularies"]
    tokenizer = load_adapted(None, str(folder / "base"), dtype="float32").tokenizer
    assert (whole["ids"], whole["covered"], whole["covered_with_prompt"]) == (len(tokenizer), 1, 1)
    # Of "xx ab" and "done x" the training rows lack x and b; the first prompt has x.
    assert many["covered"] == pytest.approx(7 / 11)
    assert many["covered_with_prompt"] == pytest.approx(9 / 11)
    assert few["ids"] == 12 < many["ids"] <= 30
    for entry in facts["vocabularies"]:
        assert (entry["rows"], entry["identical"], entry["tokens"]) == (2, 2, 24)
        assert entry["tokens_per_call"] == entry["tokens"] / entry["calls"]
    text = run(folder, "adapter", "--size", "12").stdout
    assert "with the prompt" in text
    assert "2 of 2" in text


def test_the_limit_is_of_what_is_decoded(folder):
    facts = json.loads(run(folder, "adapter", "--size", "30", "--limit", "1", "--json").stdout)
    assert facts["vocabularies"][1]["rows"] == 1
    assert facts["vocabularies"][1]["covered"] == pytest.approx(7 / 11)


def test_the_adapter_is_written_with_it(folder, tmp_path):
    before = read_bundle(folder / "adapter")
    result = run(folder, "adapter", "--size", "30", "--output", tmp_path / "new")
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"wrote {tmp_path / 'new'}" in result.stdout
    bundle = read_bundle(tmp_path / "new")
    assert (bundle.format_version, bundle.stream_config, bundle.tree) == (3, before.stream_config, before.tree)
    ids = set(bundle.draft_vocabulary.tolist())
    tokenizer = load_adapted(bundle.path, str(folder / "base"), dtype="float32").tokenizer
    assert {0, 1, *tokenizer("done and 19,")["input_ids"]} <= ids
    assert tokenizer("x")["input_ids"][0] not in ids
    for name in ("adapter_model.safetensors", "streams.safetensors"):
        assert (bundle.path / name).read_bytes() == (before.path / name).read_bytes()
    assert (bundle.path / "README.md").is_file()
    # In its own place, with another size.
    result = run(folder, bundle.path, "--size", "14", "--output", bundle.path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(load_file(bundle.path / "draft_vocabulary.safetensors")["ids"]) == 14
    assert json.loads(CliRunner().invoke(cli, ["inspect", str(bundle.path), "--json"]).stdout)["draft_vocabulary"] == 14


@pytest.mark.parametrize(
    ("adapter", "args", "message"),
    [
        ("adapter", ["--size", "5", "--size", "6", "--output", "new"], "--output writes one vocabulary, but 2 sizes"),
        ("adapter", ["--output", "{folder}/base"], "exists and is no adapter bundle"),
        ("plain", [], "'plain' has no streams, which are what guesses from a vocabulary"),
        ("nowhere", [], "nowhere"),
    ],
)
def test_wrong_input_exits_2(folder, adapter, args, message):
    result = run(folder, adapter, *(arg.format(folder=folder) for arg in args))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert (folder / "base" / "config.json").is_file()
