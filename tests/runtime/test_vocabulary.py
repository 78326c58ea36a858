"""Adapters with a draft vocabulary in everything that decodes: mixed batches, eviction, merging, transformers' call."""

import logging
import shutil

import pytest
import torch
from fake_adapted import random_prompts
from peft import PeftModel
from shelf import SHELF, save_adapter, shared_shelf
from torch import nn

from ssft.base.load import load_base
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_with_vocabulary
from ssft.errors import BundleError
from ssft.lora.vocabulary import draft_vocabulary
from ssft.runtime.generate import StreamGenerate
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig

TOKENS = 16
SETS = {"deep": range(0, 97, 2), "own": range(97), "projected": [50], "lossless": range(40, 70)}


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


@pytest.fixture(scope="module")
def paths(shelf, tmp_path_factory):
    """Some of the shelf's adapters with a draft vocabulary, the others as they are."""
    folder = tmp_path_factory.mktemp("vocabularies")
    found = dict(shelf.paths)
    for name, ids in SETS.items():
        bundle = write_with_vocabulary(folder / name, read_bundle(shelf.paths[name]), torch.tensor(list(ids)))
        assert (bundle.format_version, bundle.draft_vocabulary.tolist()) == (3, list(ids))
        found[name] = bundle.path
    return found


def fresh(shelf, paths, names, **settings):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu", **settings)
    for name in names:
        model.load_adapter(paths[name], name)
    return model


def test_a_mixed_batch_says_what_each_says_plainly(shelf, paths):
    names = [*paths, None]
    model = fresh(shelf, paths, paths)
    prompts = random_prompts(2 * len(names), seed=3)
    wanted = [*names, *reversed(names)]
    rows = model.generate(prompts, wanted, max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
    expected = [shelf.reference(prompt, name, TOKENS) for prompt, name in zip(prompts, wanted, strict=True)]
    assert [row["token_ids"] for row in rows] == expected
    calls = {name: sum(row["calls"] for row in rows if row["adapter"] == name) for name in names}
    assert calls["own"] < 2 * TOKENS, "no draft was accepted, so the test shows little"
    drafters = {name: model.bank.get(name).drafter for name in names}
    held = {name for name, drafter in drafters.items() if drafter is not None and drafter.vocabulary is not None}
    assert held == set(SETS)


def test_the_rows_of_the_head_count_as_the_adapters_bytes(shelf, paths):
    without, having = fresh(shelf, shelf.paths, SETS).adapters(), fresh(shelf, paths, SETS).adapters()
    for name, ids in SETS.items():
        assert having[name].nbytes - without[name].nbytes == 4 * 64 * len(ids)


def test_an_evicted_adapter_gives_its_rows_back_and_gathers_them_anew(shelf, paths):
    prompt = random_prompts(1)[0]
    model = fresh(shelf, paths, ["deep", "own"])
    size = max(adapter.nbytes for adapter in model.adapters().values())
    model = fresh(shelf, paths, ["deep", "own"], max_adapter_bytes=size)
    assert [adapter.tier for adapter in model.adapters().values()] == ["disk", "device"]
    for name, other in (("deep", "own"), ("own", "deep"), ("deep", "own")):
        found = model.generate(prompt, name, max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
        assert found["token_ids"] == shelf.reference(prompt, name, TOKENS)
        assert model.bank.get(name).vocabulary.ids == list(SETS[name])
        assert model.bank.get(other).vocabulary is None


def test_a_merged_adapter_guesses_from_it_too(shelf, paths):
    prompt = random_prompts(1)[0]
    model = load_adapted(paths["deep"], str(shelf.base), dtype="float32", merge=True)
    (found,) = model.complete([prompt], max_new_tokens=TOKENS, ignore_eos=True)
    assert found.token_ids == shelf.reference(prompt, "deep", TOKENS)
    assert model.active.vocabulary.ids == list(SETS["deep"])


# -- a LoRA of the head ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_head(shelf, tmp_path_factory):
    """An adapter whose LoRA also reaches the head, with a draft vocabulary."""
    folder = tmp_path_factory.mktemp("head")
    lora = {"r": 4, "target_modules": ["q_proj", "down_proj", "lm_head"]}
    path = save_adapter(folder / "plain", shelf.base, lora, StreamConfig(3, 2), SHELF["deep"][2])
    return write_with_vocabulary(folder / "adapter", read_bundle(path), torch.arange(0, 97, 3)).path


def test_the_rows_hold_what_the_adapters_lora_adds_to_the_head(shelf, of_head):
    model = fresh(shelf, {"head": of_head}, ["head"])
    hidden = torch.randn(1, 3, 64)
    with torch.inference_mode(), model.applied(1, "head"):
        whole = model.hooks.backbone.logits(hidden)
        bare = nn.functional.linear(hidden, model.hooks.backbone.head.weight)
        rows = model.bank.get("head").vocabulary.rows(hidden)
    torch.testing.assert_close(rows, whole[..., ::3][..., : rows.shape[-1]], atol=1e-5, rtol=0)
    assert (whole - bare).abs().max() > 0.1, "the LoRA of the head adds nothing, so the test shows nothing"


def test_a_users_peft_model_guesses_from_it_too(shelf, of_head):
    base, tokenizer = load_base(shelf.base, dtype="float32")
    model = PeftModel.from_pretrained(base, str(of_head)).eval()
    inputs = {"input_ids": torch.tensor([[5, 9, 40, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    settings = {"do_sample": False, "max_new_tokens": TOKENS, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(**inputs, **settings)
    generate = StreamGenerate.from_adapter(model, of_head, tokenizer=tokenizer)
    assert generate.drafter.vocabulary.ids == list(range(0, 97, 3))
    hidden = torch.randn(1, 3, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            generate.drafter.vocabulary.rows(hidden),
            generate.hooks.backbone.logits(hidden)[..., :97:3],
            atol=1e-5,
            rtol=0,
        )
    assert torch.equal(model.generate(**inputs, custom_generate=generate, **settings), expected)


# -- what cannot be ---------------------------------------------------------------------------------------------


def test_ids_that_the_base_does_not_have_are_refused_by_both_ways(shelf, tmp_path):
    folder = shutil.copytree(shelf.paths["deep"], tmp_path / "beyond")
    write_with_vocabulary(folder, read_bundle(folder), torch.tensor([3, 5_000]))
    message = "draft_vocabulary.safetensors: holds the token id 5000, but the base has .* token ids"
    with pytest.raises(BundleError, match=message):
        fresh(shelf, {"beyond": folder}, ["beyond"])
    model = PeftModel.from_pretrained(load_base(shelf.base, dtype="float32")[0], str(folder))
    with pytest.raises(BundleError, match=message):
        StreamGenerate.from_adapter(model, folder)


def test_a_lora_without_streams_gets_none(shelf, tmp_path):
    with pytest.raises(BundleError, match="is a LoRA without streams, so nothing in it guesses from a vocabulary"):
        write_with_vocabulary(tmp_path / "out", read_bundle(shelf.paths["plain"]), torch.tensor([3]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("weight", "state"),
    [
        (torch.zeros(8, 4, dtype=torch.uint8), "stored as torch.uint8"),
        (torch.empty(8, 4, device="meta"), "offloaded"),
    ],
)
def test_a_head_without_rows_is_computed_whole_and_told(shelf, weight, state, caplog):
    model = load_base(shelf.base, dtype="float32")[0]
    model.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    with caplog.at_level(logging.WARNING):
        vocabulary = draft_vocabulary(model, torch.tensor([3, 5]), {})
    assert f"the base's lm_head is {state}; all of it is computed for every draft, which is slower" in caplog.text
    assert vocabulary.nbytes == 0
    whole = nn.Linear(64, 8)
    model.lm_head.forward = whole.__call__  # what would unpack or fetch the weight
    hidden = torch.randn(2, 64)
    assert torch.equal(vocabulary.rows(hidden), whole(hidden)[:, [3, 5]])
    caplog.clear()
    assert draft_vocabulary(model, None, {}) is None
    assert not caplog.text
