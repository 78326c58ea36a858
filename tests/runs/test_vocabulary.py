"""A training run learns its draft vocabulary at the end."""

import json

import pytest
from click.testing import CliRunner
from tiny_base import rows, save_rows, save_tiny_base, tiny_tokenizer

from ssft.bundle.read import read_bundle
from ssft.cli.train import command
from ssft.recipes.recipe import load_recipe
from ssft.runtime.loader import load_adapted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_tiny_base(folder / "base")
    save_rows(folder / "train.jsonl", rows(12))
    save_rows(folder / "validation.jsonl", rows(2, start=50))
    return folder


def train(folder, output, *overrides):
    words = [
        *("quickstart", f"base={folder / 'base'}", f"data.train={folder / 'train.jsonl'}"),
        *(f"data.validation={folder / 'validation.jsonl'}", "dtype=float32", "training.max_steps=2"),
        *("training.num_streams=3", "training.num_msa_layers=2", "lora.r=4", *overrides),
    ]
    return CliRunner().invoke(command, [*words, "--json", "--output", str(output)])


def test_it_is_learned_from_the_rows_that_the_streams_saw(folder, tmp_path):
    result = train(folder, tmp_path / "adapter", "training.draft_vocabulary=16")
    assert result.exit_code == 0, (result.output, result.exception)
    bundle = read_bundle(tmp_path / "adapter")
    ids = bundle.draft_vocabulary.tolist()
    assert (bundle.format_version, len(ids)) == (3, 16)
    tokens = set(tiny_tokenizer()(" and , done.")["input_ids"])
    assert {0, 1, *tokens} <= set(ids), "special tokens, and the letters of every completion"
    assert tiny_tokenizer()(":")["input_ids"][0] not in ids, "a letter of prompts alone has no place before those"
    assert load_recipe(tmp_path / "adapter" / "run.yaml").training["draft_vocabulary"] == 16
    adapted = load_adapted(bundle.path, str(folder / "base"), dtype="float32")
    assert adapted.active.vocabulary.ids == ids
    prompts = [adapted.encode({"prompt": "say 3:"})]
    texts = [adapted.complete(prompts, max_new_tokens=12, speculate=speculate) for speculate in (True, False)]
    assert texts[0][0].token_ids == texts[1][0].token_ids


def test_a_size_beyond_the_base_learns_none(folder, tmp_path):
    assert train(folder, tmp_path / "adapter").exit_code == 0
    bundle = read_bundle(tmp_path / "adapter")
    assert (bundle.format_version, bundle.draft_vocabulary) == (1, None)
    assert "draft_vocabulary" not in json.loads((bundle.path / "ssft_config.json").read_text())


def test_a_negative_size_is_refused(folder, tmp_path):
    result = train(folder, tmp_path / "adapter", "training.draft_vocabulary=-1")
    assert result.exit_code != 0
    assert "draft_vocabulary=-1, expected a whole number from 0" in str(result.exception)
