"""Mixed batches: every row equals the plain greedy text of its own adapter alone, whatever stands beside it.

The reference is transformers' and peft's own `generate`, one row and one adapter at a time, on models without any
hook of ours.
"""

import copy
import functools
import random

import pytest
import torch
from covering import over_architectures
from shelf import OWN, PLAIN, SHELF, shared_shelf

from ssft.base.load import load_base
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.streams import StreamDrafter
from ssft.lora.bank import Adapter
from ssft.runtime.model import MultiAdapterModel

TOKENS = 20
NAMES = [*SHELF, OWN, PLAIN, None]
VOCABULARY = 97


@pytest.fixture
def shelf(architecture):
    return shared_shelf(architecture)


def load(shelf):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    for name, path in shelf.paths.items():
        assert model.load_adapter(path) == name
    return model


@functools.cache
def shared_model(architecture):
    return load(shared_shelf(architecture))


@pytest.fixture
def model(architecture):
    return shared_model(architecture)


@pytest.fixture
def own_model(shelf):
    """A model that the test may spoil."""
    return load(shelf)


def rows(count, seed=0):
    """(prompt, adapter) pairs; every adapter and the bare base come up, prompts differ in length."""
    draw = random.Random(seed)
    names = (NAMES * count)[:count]
    draw.shuffle(names)
    return [([draw.randrange(2, VOCABULARY) for _ in range(draw.randint(2, 12))], name) for name in names]


def run(model, batch, tokens=TOKENS, **settings):
    settings = {"ignore_eos": True, "return_dict": True, **settings}
    prompts, names = [prompt for prompt, _ in batch], [name for _, name in batch]
    return model.generate(prompts, adapter=names, max_new_tokens=tokens, **settings)


# --- before all: there is something to tell apart ---


def test_base_and_every_adapter_say_different_things(shelf):
    prompt, _ = rows(1)[0]
    texts = {name: tuple(shelf.reference(prompt, name, TOKENS)) for name in NAMES if name != "lossless"}
    assert len(set(texts.values())) == len(texts)
    assert all(len(set(text)) > 5 for text in texts.values())


# --- the heart ---


@over_architectures(pairs=False, seed=range(2))
def test_every_row_of_a_mixed_batch_is_its_own_adapters_plain_text(shelf, model, seed):
    batch = rows(2 * len(NAMES), seed)
    results = run(model, batch)
    for (prompt, name), result in zip(batch, results, strict=True):
        assert result["token_ids"] == shelf.reference(prompt, name, TOKENS), name
        assert result["adapter"] == name
        assert result["tokens"] == TOKENS
    calls = {name: sum(r["calls"] for r in results if r["adapter"] == name) for name in NAMES}
    assert calls[None] == calls[PLAIN] == 2 * TOKENS
    drafted = [name for name in ("deep", "many", "projected", "lossless", OWN) if calls[name] < 2 * TOKENS]
    assert len(drafted) >= 2, f"hardly any draft was right, so the test shows little: {calls}"


@over_architectures(pairs=False, seed=range(2))
def test_neighbours_and_order_change_no_row(model, seed):
    batch = rows(12, seed + 10)
    together = run(model, batch, tokens=10)
    order = list(range(len(batch)))
    random.Random(seed).shuffle(order)
    shuffled = run(model, [batch[i] for i in order], tokens=10)
    facts = ("token_ids", "calls", "accepted", "finish_reason", "adapter", "text")
    for place, i in enumerate(order):
        (alone,) = run(model, [batch[i]], tokens=10)
        for fact in facts:
            assert together[i][fact] == shuffled[place][fact] == alone[fact]


def test_without_speculation_every_row_takes_a_call_per_token(shelf, model):
    batch = rows(8, 3)
    for (prompt, name), result in zip(batch, run(model, batch, speculate=False), strict=True):
        assert result["token_ids"] == shelf.reference(prompt, name, TOKENS)
        assert result["calls"] == TOKENS


class OracleDrafter(StreamDrafter):
    """Drafts from the known continuation; wherever the real streams propose nothing, it proposes nothing."""

    def __init__(self, streams, texts, drafts):
        super().__init__(streams)
        self.texts, self.drafts = texts, drafts

    def propose(self, stops, states, step):
        real = super().propose(stops, states, step)
        return [None if guesses is None else self.draw(stop.row) for stop, guesses in zip(stops, real, strict=True)]

    def draw(self, row):
        at, text = len(row.result.token_ids), self.texts[tuple(row.request.prompt)]
        guesses = []
        for depth in range(row.request.depth):
            right = text[at + depth]
            lucky = {"never": 0, "sometimes": random.Random(f"{text}/{at}/{depth}").randint(0, 1), "always": 1}
            wrong = (right + 1) % VOCABULARY
            guesses.append([right, wrong] if lucky[self.drafts] else [wrong, (right + 2) % VOCABULARY])
        return Guesses(guesses, [[-0.5, -1.0]] * len(guesses))


@over_architectures(pairs=False, drafts=["never", "sometimes", "always"])
def test_any_drafts_give_every_row_its_plain_text(shelf, model, drafts, monkeypatch):
    batch = rows(12, 5)
    texts = {tuple(prompt): shelf.reference(prompt, name, TOKENS + 8) for prompt, name in batch}
    assert len(texts) == len(batch)
    real = Adapter.drafter.fget

    def drafter(adapter):
        return None if real(adapter) is None else OracleDrafter(adapter.streams, texts, drafts)

    monkeypatch.setattr(Adapter, "drafter", property(drafter))
    for (prompt, name), result in zip(batch, run(model, batch), strict=True):
        assert result["token_ids"] == texts[tuple(prompt)][:TOKENS]
        gamma = 4 if name == OWN else SHELF[name][1].num_streams if name in SHELF else 0
        if drafts == "never" or not gamma:
            assert result["calls"] == TOKENS
        elif drafts == "always":
            # With streams beside some nodes only, a stop elsewhere costs one pass without a draft.
            assert result["calls"] <= 1 + -(-(TOKENS - 1) // (gamma + 1)) * (1 if name != "many" else 2)
        else:
            assert result["calls"] < TOKENS


@over_architectures(name=["lossless", OWN])
def test_a_lora_of_the_streams_alone_changes_drafts_and_no_text(shelf, own_model, name):
    """The same adapter with that LoRA taken away drafts something else, so the streams did see it."""
    batch = [(prompt, name) for prompt, _ in rows(12, 7)]
    results = run(own_model, batch)
    for (prompt, _), result in zip(batch, results, strict=True):
        assert result["token_ids"] == shelf.reference(prompt, name, TOKENS)
    assert sum(r["calls"] for r in results) < len(batch) * TOKENS
    adapter = own_model.adapters()[name]
    for layer in adapter.lora.stream_layers.values():
        layer.up.zero_()
    without = run(own_model, batch)
    assert [r["token_ids"] for r in without] == [r["token_ids"] for r in results]
    assert [r["accepted"] for r in without] != [r["accepted"] for r in results]


# --- switching ---


def test_the_active_adapter_serves_calls_that_name_none(shelf, model):
    prompt, _ = rows(1)[0]
    assert model.active_adapter is None
    for name in NAMES:
        model.set_adapter(name)
        assert model.active_adapter == name
        found = model.generate(prompt, max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
        assert found["token_ids"] == shelf.reference(prompt, name, TOKENS)
    model.set_adapter("deep")
    with model.disable_adapter():
        found = model.generate(prompt, max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
    assert found["token_ids"] == shelf.reference(prompt, None, TOKENS)
    assert model.active_adapter == "deep"


def test_switching_moves_no_tensor(model):
    def places():
        return {
            (name, key): (layer.down.data_ptr(), layer.up.data_ptr())
            for name, adapter in model.adapters().items()
            for key, layer in adapter.lora.layers.items()
        }

    before = places()
    base = {key: value.data_ptr() for key, value in model.model.state_dict().items()}
    for name in [*NAMES, *NAMES]:
        model.set_adapter(name)
        model.generate([5, 6, 7], max_new_tokens=2)
    assert places() == before
    assert {key: value.data_ptr() for key, value in model.model.state_dict().items()} == base


def test_base_weights_are_never_touched(shelf, model):
    untouched = load_base(shelf.base, dtype="float32")[0].state_dict()
    run(model, rows(7))
    dense = copy.deepcopy(model.model)
    model.linears.restore(dense)
    assert all(torch.equal(value, untouched[key]) for key, value in dense.state_dict().items())


def test_unload_gives_the_base_back(shelf, own_model):
    prompt, _ = rows(1)[0]
    own_model.set_adapter("deep")
    own_model.generate(prompt, max_new_tokens=3)
    base = own_model.unload()
    assert base is own_model.model
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())
    base.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    output = base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, pad_token_id=0)
    assert output[0, len(prompt) :].tolist() == shelf.reference(prompt, None, TOKENS)
