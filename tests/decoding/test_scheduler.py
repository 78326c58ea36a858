"""Rows that come and go between two passes: every one gets its own plain text, whatever the others do."""

import functools
import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, random_ids, with_adapter
from decoder import Decoder

from ssft.decoding.config import TreeConfig
from ssft.decoding.scheduler import Scheduler
from ssft.errors import GenerationError, UnsupportedArchitectureError
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

TOKENS = 20
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 4, 25, 6, 13)]
TREES = [TreeConfig("best_first", 48, 16), TreeConfig("chain", 9), TreeConfig("k_ary", 31, 5), None]


@functools.cache
def subject(architecture):
    """A model with hooks, and what it says to each prompt without them."""
    model = with_adapter(TINY[architecture](), StreamConfig(3, 2))
    model.generation_config.eos_token_id = None
    texts = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        output = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        texts.append(output[0, len(prompt) :].tolist())
    assert len({tuple(text[:6]) for text in texts}) == len(texts)
    return SimpleNamespace(hooks=StreamHooks(model), streams=streams_of(model), texts=texts)


def request(of, number, tokens=TOKENS):
    """Of prompt `number`; every fourth decodes plainly."""
    tree = TREES[number % len(TREES)]
    return Decoder(of.hooks, of.streams if tree else None, tree).request(PROMPTS[number], tokens)


def run_to_end(scheduler):
    for _ in range(1000):
        if not scheduler.busy:
            return
        scheduler.run_pass()
    raise AssertionError("the scheduler did not end")


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_rows_may_join_a_batch_that_runs(architecture, passes):
    of = subject(architecture)
    scheduler = Scheduler(Decoder(of.hooks, of.streams).step)
    rows = []
    for number in range(len(PROMPTS)):
        rows += scheduler.admit([request(of, number)])
        for _ in range(passes):
            scheduler.run_pass()
    run_to_end(scheduler)
    assert [row.result.token_ids for row in rows] == of.texts
    assert all(row.result.finish_reason == "length" for row in rows)
    assert not scheduler.rows
    assert sum(row.result.calls for row in rows) < len(rows) * TOKENS, "no draft was right, so the test shows little"


@pytest.mark.parametrize("seed", range(4))
def test_rows_come_leave_and_are_cancelled_in_any_order(seed):
    of, draw = subject("llama"), random.Random(seed)
    scheduler = Scheduler(Decoder(of.hooks, of.streams).step)
    admitted, cancelled = [], []
    for turn in itertools.count():
        if turn < 15 and draw.random() < 0.4:
            number, tokens = draw.randrange(len(PROMPTS)), draw.randint(1, TOKENS)
            (row,) = scheduler.admit([request(of, number, tokens)])
            admitted.append((row, of.texts[number][:tokens]))
        running = [row for row, _ in admitted if not row.finished]
        if running and draw.random() < 0.15:
            cancelled.append(draw.choice(running))
            scheduler.cancel(cancelled[-1])
        scheduler.run_pass()
        if turn > 15 and not scheduler.busy:
            break
    assert len(admitted) > 3
    for row, text in admitted:
        if row in cancelled:
            assert row.result.finish_reason == "cancelled"
            assert row.result.token_ids == text[: len(row.result.token_ids)]
            assert len(row.result.token_ids) < len(text)
        else:
            assert (row.result.token_ids, row.result.finish_reason) == (text, "length")


def test_a_row_that_has_ended_cannot_be_cancelled():
    of = subject("llama")
    scheduler = Scheduler(Decoder(of.hooks, of.streams).step)
    (row,) = scheduler.admit([request(of, 0)])
    run_to_end(scheduler)
    before = row.result.seconds
    scheduler.cancel(row)
    assert (row.result.finish_reason, row.result.seconds) == ("length", before)


def test_a_batch_that_is_closed_early_leaves_nothing_running():
    of = subject("llama")
    scheduler = Scheduler(Decoder(of.hooks, of.streams).step)
    batch = scheduler.decode([request(of, 0), request(of, 1)])
    results = next(batch)
    batch.close()
    assert [result.finish_reason for result in results] == ["cancelled", "cancelled"]
    assert not scheduler.busy


def test_a_bad_request_admits_none_of_its_batch():
    of = subject("llama")
    scheduler = Scheduler(Decoder(of.hooks, of.streams).step)
    with pytest.raises(GenerationError, match="a prompt has no tokens"):
        scheduler.admit([request(of, 0), Decoder(of.hooks, of.streams).request([], 4)])
    assert not scheduler.busy


def new_model(**changes):
    model = with_adapter(TINY["llama"](**changes), StreamConfig(3, 2))
    return model, Decoder(StreamHooks(model), streams_of(model))


def removed(model, decoder):
    decoder.hooks.remove()


def other_attention(model, decoder):
    model.get_base_model().set_attn_implementation("sdpa")


def checkpointing(model, decoder):
    model.get_base_model().activation_checkpointing_enable()
    model.train()


CHANGED = {
    "hooks removed": (removed, "the base was unloaded from this object"),
    "another attention": (other_attention, "attention implementation is 'sdpa' now, but streams need 'ssft'"),
    "checkpointing": (checkpointing, r"in training with activation checkpointing.*model\.eval\(\)"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_model_that_was_changed_meanwhile_is_refused_by_name(change):
    model, decoder = new_model()
    expected = decoder.generate([PROMPTS[0]], 5)[0].token_ids
    act, message = CHANGED[change]
    act(model, decoder)
    with pytest.raises(GenerationError, match=message):
        decoder.generate([PROMPTS[0]], 5)
    if change == "checkpointing":
        model.eval()
        assert decoder.generate([PROMPTS[0]], 5)[0].token_ids == expected


def test_rope_whose_frequencies_follow_the_longest_row_is_refused():
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0, "rope_theta": 10000.0}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 32, **factors}
    with pytest.raises(UnsupportedArchitectureError, match=r"llama with rope_type 'longrope'.*a longer neighbour"):
        new_model(rope_parameters=rope, max_position_embeddings=128)


def test_rows_with_one_adapter_stand_side_by_side():
    of = subject("llama")
    scheduler = Scheduler(Decoder(of.hooks, of.streams).step)
    a, b = SimpleNamespace(layers={}, stream_layers={}), SimpleNamespace(layers={}, stream_layers={})
    rows = []
    for adapter in (a, b, a, None):
        own = request(of, len(rows))
        own.adapter = adapter
        rows += scheduler.admit([own])
        scheduler.run_pass()
    assert [row.request.adapter for row in scheduler.rows] == [a, a, b, None]
    run_to_end(scheduler)
    assert [row.result.token_ids for row in rows] == of.texts[: len(rows)]
