"""Which passes are captured, and when; whose graphs are kept, and until when."""

import functools
import logging

import pytest
import torch
from conftest import random_ids
from decoder import Decoder, on
from graph_stand_in import Recording
from invented_texts import FakeCosts
from oracle import ALL, PROMPTS, TOKENS, decode, shared
from shelf import OWN, PLAIN, SHELF, shared_shelf

from ssft.decoding import static, stores
from ssft.decoding.budget.cost import NODES, SOURCES, PassCosts
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TreeConfig
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.static import MOST, StaticStep, step_for
from ssft.decoding.step import Step
from ssft.runtime.model import MultiAdapterModel

# --- adapters ---


@functools.cache
def loaded(captured):
    shelf = shared_shelf("llama")
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    for name in (*SHELF, OWN, PLAIN):
        model.load_adapter(shelf.paths[name])
    if captured:
        model.step = StaticStep(model.hooks, Recording())
    return model


@pytest.mark.parametrize(
    "names",
    [["deep"], ["many", "many", "many"], ["deep", "many", None], ["lossless", OWN, "small", PLAIN, "projected"]],
    ids=str,
)
def test_mixed_adapters_say_what_they_say_one_by_one(names):
    prompts = [random_ids(1, 4 + 3 * place, seed=place)[0].tolist() for place in range(len(names))]
    settings = {"adapter": names, "max_new_tokens": 16, "ignore_eos": True, "return_dict": True}
    for _ in range(2):
        (own, expected) = (loaded(captured).generate(prompts, **settings) for captured in (True, False))
        assert [(a["token_ids"], a["calls"]) for a in own] == [(b["token_ids"], b["calls"]) for b in expected]
    assert loaded(True).step.capture.replays


def fresh(names, **settings):
    shelf = shared_shelf("llama")
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu", **settings)
    model.step = StaticStep(model.hooks, Recording())
    for name in names:
        model.load_adapter(shelf.paths[name])
    return model


def graphs_after(model, name, tokens=12):
    """How many more graphs there are after a call."""
    before = model.step.graphs
    model.generate([5, 9, 40, 8], name, max_new_tokens=tokens, ignore_eos=True, speculate=False)
    return model.step.graphs - before


def test_graphs_of_an_adapter_that_is_deleted_are_dropped():
    model = fresh(["deep", "many"])
    counts = {name: graphs_after(model, name) for name in ("deep", "many", None)}
    assert counts == {"deep": 1, "many": 1, None: 1}
    model.delete_adapter("deep")
    assert model.step.graphs == len(model.step._kept) == 2
    assert [graphs_after(model, name) for name in ("many", None)] == [0, 0]


def test_graphs_of_an_adapter_that_makes_room_are_dropped_and_made_anew():
    sizes = {name: adapter.nbytes for name, adapter in loaded(False).adapters().items()}
    model = fresh([], max_adapter_bytes=max(sizes["deep"], sizes["many"]))
    shelf = shared_shelf("llama")
    for name in ("deep", "many"):
        model.load_adapter(shelf.paths[name])
    assert graphs_after(model, "deep") == 1
    assert graphs_after(model, "many") == 0  # one more, one less
    assert model.step.graphs == 1
    prompt = [5, 9, 40, 8]
    assert model.generate(prompt, "deep", max_new_tokens=8, ignore_eos=True, return_dict=True)[
        "token_ids"
    ] == shelf.reference(prompt, "deep", 8)


def test_generate_of_transformers_takes_the_models_own_step():
    model = fresh(["deep"])
    ids = torch.tensor([[5, 9, 40, 8]])
    output = model.model.generate(
        input_ids=ids, custom_generate=model.custom_generate("deep"), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert output[0, 4:].tolist()[:8] == shared_shelf("llama").reference(ids[0].tolist(), "deep", 8)
    assert model.step.capture.replays


# --- what is captured, and when ---


def plain_and_static():
    subject = shared("llama")
    step = StaticStep(subject.hooks, Recording())
    return on(step, Decoder(subject.hooks, None)), step


def test_a_bucket_is_captured_when_it_comes_the_second_time_and_replayed_from_then_on():
    decoder, step = plain_and_static()
    decode(decoder, [1])
    passes = TOKENS - 1  # beside the prompt's
    assert (step.capture.captures, step.capture.replays) == (1, passes - 1)
    decode(decoder, [1])
    assert (step.capture.captures, step.capture.replays) == (1, 2 * passes - 1)
    decode(decoder, [0])  # another prompt, another length
    assert (step.capture.captures, step.capture.replays) == (1, 3 * passes - 1)
    decode(decoder, ALL)  # three rows in a bucket of four
    decode(decoder, [*ALL, 1])
    assert (step.capture.captures, step.capture.replays) == (2, 5 * passes - 2)


def test_the_bucket_that_was_used_longest_ago_goes(monkeypatch):
    monkeypatch.setattr(static, "MOST", 2)
    decoder, step = plain_and_static()
    for rows, captures in (([0], 1), (ALL, 2), ([1], 2), ([0, 1], 3), ([1], 3), (ALL, 4)):
        decode(decoder, rows)
        assert step.capture.captures == captures
        assert step.graphs <= 2
    assert MOST > 2


def test_a_store_that_is_no_longer_kept_takes_its_graphs_along(monkeypatch):
    monkeypatch.setattr(stores, "SPARE_BYTES", 0)  # beside the latest none is kept
    decoder, step = plain_and_static()
    decode(decoder, [1])
    assert step.graphs == 1
    decode(decoder, [0])  # the same store
    assert (step.graphs, step.capture.captures) == (1, 1)
    decode(decoder, ALL)
    assert (step.graphs, step.capture.captures) == (1, 2)  # that of the other store is gone
    decode(decoder, [1])
    assert step.capture.captures == 3


def test_where_capture_fails_that_is_said_once_and_the_text_is_the_same(caplog):
    tried = []

    def refuse(forward):
        tried.append(forward())
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    subject = shared("llama")
    step = StaticStep(subject.hooks, refuse)
    with caplog.at_level(logging.WARNING):
        results = decode(on(step, Decoder(subject.hooks, subject.streams)), ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
    assert [record.getMessage() for record in caplog.records] == [
        "passes cannot be captured as CUDA graphs, and take longer without: operation not permitted when stream is "
        "capturing"
    ]
    assert len(tried) == 1
    assert not step.graphs


def test_a_step_that_is_timed_runs_operator_by_operator():
    decoder, step = plain_and_static()
    decode(decoder, [1])
    replays, parts = step.capture.replays, []
    step.timer = lambda part: parts.append(part) or static.untimed(part)
    expected = shared("llama").texts[1][:TOKENS]
    assert decode(decoder, [1])[0].token_ids == expected
    assert step.capture.replays == replays
    assert parts.count("layers without streams") == TOKENS
    step.timer = static.untimed
    assert decode(decoder, [1])[0].token_ids == expected
    assert step.capture.replays == replays + TOKENS - 1


def test_costs_are_those_of_captured_passes(monkeypatch):
    subject = shared("llama")
    step = StaticStep(subject.hooks, Recording())
    costs, decoder = PassCosts(step), Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 16, 4))
    graphs, clock = [], iter(range(10**6))

    def now():
        graphs.append(step.graphs)
        return next(clock) / 1e6

    monkeypatch.setattr("ssft.decoding.budget.cost.time.perf_counter", now)
    costs._measure(decoder.request(PROMPTS[0], 4), 1)
    assert set(graphs) == {sum(sources <= nodes for nodes in NODES for sources in SOURCES)}


def test_what_a_budget_learns_of_times_are_those_of_replayed_passes():
    decoder, step = plain_and_static()
    budget, took = TunedBudget(FakeCosts(lambda b, n, m: 1.0)), []
    budget.took = lambda milliseconds: took.append(step.capture.replays)
    *_, results = Scheduler(step, budget=budget).decode([decoder.request(PROMPTS[1], TOKENS)])
    assert results[0].calls == TOKENS
    assert took == list(range(2, TOKENS - 1))  # the first pass was not captured, the second took the capture


def test_a_model_that_is_not_on_a_gpu_has_the_ordinary_step():
    assert type(step_for(shared("llama").hooks)) is Step
