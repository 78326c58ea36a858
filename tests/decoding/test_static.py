"""Passes in fixed shapes and memory say what passes of any shape say, captured or not.

A CUDA graph runs no Python. On a CPU `Recording` stands in for it, which replays operators on the tensors that they
were recorded with: what the code reads on the host is then of the recorded pass, and a text would show it.
"""

import functools
import itertools
import logging
import random

import pytest
import tiny_architectures
import torch
from conftest import TINY, VOCABULARY, random_ids, tiny_mistral
from covering import covering, over_architectures
from decoder import Decoder
from graph_stand_in import Recording
from oracle import ALL, GAMMA, PROMPTS, TOKENS, TOP_K, Oracle, adapted, decode
from shelf import OWN, PLAIN, SHELF, shared_shelf

from ssft.decoding import static, stores
from ssft.decoding.budget.cost import NODES, SOURCES, PassCosts
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.graphs import NoHostReads
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.static import MOST, StaticStep, step_for
from ssft.decoding.step import Step
from ssft.decoding.tree import DraftTree
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig

DRAFTS = ["never", "sometimes", "always"]
ROWS = {"batch1": [1], "batch3": ALL}


@functools.cache
def shared(architecture):
    return adapted(TINY[architecture]())


@functools.cache
def step_of(architecture, captured):
    """One for all tests, so that its buckets come again with other trees."""
    return StaticStep(shared(architecture).hooks, Recording() if captured else None)


def on(step, decoder):
    decoder.step = step
    return decoder


def said(results):
    return [(result.token_ids, result.calls, result.accepted) for result in results]


# --- the same text ---


@over_architectures(kind=TREE_KINDS, drafts=DRAFTS, rows=ROWS, captured=[False, True])
def test_any_drafts_give_the_plain_text_in_as_many_passes(architecture, kind, drafts, rows, captured):
    subject, step = shared(architecture), step_of(architecture, captured)
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, rows)
    expected = decode(oracle, rows)
    results = decode(on(step, oracle), rows)
    assert said(results) == said(expected)
    assert [result.token_ids for result in results] == [subject.texts[row][:TOKENS] for row in rows]
    assert (step.graphs > 0) is captured


@over_architectures(rows=ROWS, captured=[False, True])
def test_plain_decoding_gives_the_plain_text(architecture, rows, captured):
    subject, step = shared(architecture), step_of(architecture, captured)
    results = decode(on(step, Decoder(subject.hooks, None)), rows)
    assert [result.token_ids for result in results] == [subject.texts[row][:TOKENS] for row in rows]


@covering(kind=TREE_KINDS, drafts=DRAFTS, window=[2, 6], captured=[False, True])
def test_sliding_window_gives_the_plain_text(kind, drafts, window, captured):
    subject, step = windowed(window, captured)
    oracle = on(step, Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, ALL))
    assert [result.token_ids for result in decode(oracle, ALL)] == [text[:TOKENS] for text in subject.texts]


@functools.cache
def windowed(window, captured):
    subject = adapted(tiny_mistral(sliding_window=window))
    return subject, StaticStep(subject.hooks, Recording() if captured else None)


@over_architectures(pairs=False, kind=TREE_KINDS, most=[1, 2], drafts=["sometimes", "always"])
def test_fewer_stream_nodes_than_nodes(architecture, kind, most, drafts):
    subject, step = shared(architecture), step_of(architecture, True)
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K, max_stream_nodes=most), drafts, ALL)
    expected = decode(oracle, ALL)
    assert said(decode(on(step, oracle), ALL)) == said(expected)


@pytest.mark.parametrize("captured", [False, True])
def test_real_streams_in_random_settings_give_the_plain_text(architecture, captured):
    """Trees of changing size, rows of all kinds side by side, a budget that learns; stores and buckets come and go."""
    draw, subject, step = random.Random(0), shared(architecture), step_of(architecture, captured)
    budget = TunedBudget(FakeCosts())
    for _ in range(25):
        rows, requests = draw.choices(ALL, k=draw.randint(1, 5)), []
        for row in rows:
            tree = TreeConfig(
                draw.choice(TREE_KINDS),
                max_nodes=draw.choice([1, 2, 7, 40]),
                top_k=draw.choice([1, 4, 30]),
                max_depth=draw.randint(0, GAMMA),
                max_stream_nodes=draw.choice([0, 1, 3]),
                max_batch_nodes=draw.choice([0, 0, 20]),
                budget=draw.choice(["auto", "fixed"]),
            )
            streams = draw.choice([subject.streams, subject.streams, None])
            requests.append(Decoder(subject.hooks, streams, tree).request(PROMPTS[row], draw.randint(1, TOKENS)))
        *_, results = Scheduler(step, budget=budget).decode(requests)
        for row, request, result in zip(rows, requests, results, strict=True):
            assert result.token_ids == subject.texts[row][: request.max_new_tokens]


class FakeCosts:
    """Nodes and streams cost a little: trees of `budget: auto` are neither all there may be nor none."""

    def of(self, rows):
        return self

    def table(self, nodes, sources, left):
        return torch.tensor(
            [[1 + 0.02 * n + 0.05 * m for m in range(sources + 1)] for n in range(1, nodes + 1)]
        ).numpy()


@pytest.mark.parametrize("captured", [False, True])
def test_rows_that_join_and_leave(architecture, captured):
    subject = shared(architecture)
    scheduler = Scheduler(step_of(architecture, captured))
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 16, 8))
    admitted = []
    for row, tokens in zip(itertools.chain(ALL, ALL, ALL), (9, 22, 5, 17, 3, 22, 12, 8, 1), strict=True):
        admitted.append((row, tokens, *scheduler.admit([decoder.request(PROMPTS[row], tokens)])))
        for _ in range(3):
            scheduler.run_pass()
    while scheduler.busy:
        scheduler.run_pass()
    assert len({row.result.calls for *_, row in admitted}) > 3
    for row, tokens, of_batch in admitted:
        assert of_batch.result.token_ids == subject.texts[row][:tokens]


# --- the same states ---

FORMS = [
    StreamConfig(GAMMA, 1),
    StreamConfig(GAMMA, 2, "rotation"),
    StreamConfig(GAMMA, 2, "embedding", projection_rank=3),
]


def random_tree(draw, nodes):
    tree = DraftTree([draw.randrange(VOCABULARY)])
    for _ in range(nodes - 1):
        tree.add(draw.randrange(VOCABULARY), draw.randrange(len(tree)), 0.0)
    return tree


def passes(step, streams, trees):
    """States of a prompts' pass and of passes over `trees` [pass][row], after each of which a path of two is kept.

    streams: [row], of which None has none. Nodes with streams are drawn, and are other ones in every pass.
    """
    draw, found = random.Random(0), []
    rows = []
    for prompt, modules in zip(PROMPTS, streams, strict=True):
        drafter = None if modules is None else StreamDrafter(modules)
        request = Request(prompt, 40, drafter, TreeConfig("best_first", 16, 8))
        rows.append(Row(request, 40, DraftTree([prompt[-1]])))
    with torch.inference_mode():
        _, cache = step.prompts(rows)
        for number, together in enumerate(trees):
            for row, tree in zip(rows, together, strict=True):
                row.tree = tree
            sources = [[draw.randrange(len(tree)) for _ in range(number % 4)] for tree in together]
            states = step.trees(rows, sources, cache)
            for b, tree in enumerate(together):
                found.append(states.main[b, : len(tree)].clone())
                if states.streams is not None and streams[b] is not None:
                    found.append(states.streams[b, :, : streams[b].config.num_streams].clone())
            cache.keep([[0, len(tree) - 1][: len(tree)] for tree in together])
    return found


@over_architectures(pairs=False, config=FORMS, mixed=[False, True])
def test_states_are_those_of_the_ordinary_step(architecture, config, mixed):
    subject, draw = adapted(TINY[architecture](), texts=shared(architecture).texts, config=config), random.Random(1)
    other = adapted(TINY[architecture](), seed=3, texts=[[]], config=StreamConfig(2, 1)).streams
    streams = [subject.streams, other, None] if mixed else [subject.streams] * 3
    trees = [[random_tree(draw, draw.choice([3, 4, 7])) for _ in PROMPTS] for _ in range(24)]
    expected = passes(Step(subject.hooks), streams, trees)
    step = StaticStep(subject.hooks, Recording())
    for _ in range(2):
        for own, ordinary in zip(passes(step, streams, trees), expected, strict=True):
            torch.testing.assert_close(own, ordinary, rtol=2e-3, atol=2e-3)
    assert step.capture.replays > len(trees)


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


def test_one_lora_with_other_streams_is_another_bucket():
    """Streams may be told apart where adapters are not, as on a model whose LoRA peft applies."""
    subject = shared("llama")
    step = StaticStep(subject.hooks, Recording())
    other = adapted(TINY["llama"](), seed=3, texts=[[]]).streams
    trees = [[DraftTree([4, 5], [-1, 0], [0, 1], [0.0] * 2)] * 3] * 8
    for streams in ([subject.streams] * 3, [other] * 3, [subject.streams, other, other]):
        expected = passes(Step(subject.hooks), streams, trees)
        for own, ordinary in zip(passes(step, streams, trees), expected, strict=True):
            torch.testing.assert_close(own, ordinary, rtol=2e-3, atol=2e-3)


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
    budget, took = TunedBudget(FakeCosts()), []
    budget.took = lambda milliseconds: took.append(step.capture.replays)
    *_, results = Scheduler(step, budget=budget).decode([decoder.request(PROMPTS[1], TOKENS)])
    assert results[0].calls == TOKENS
    assert took == list(range(2, TOKENS - 1))  # the first pass was not captured, the second took the capture


def test_a_model_that_is_not_on_a_gpu_has_the_ordinary_step():
    assert type(step_for(shared("llama").hooks)) is Step


# --- nothing of the host in the middle of a pass ---

HOST = {
    "falcon": "aten.lift_fresh",  # indexes by a list, which goes to the device as a tensor
    "llama-dynamic": "aten._local_scalar_dense",  # looks how far the positions go
}


@pytest.mark.parametrize("name", sorted(tiny_architectures.ARCHITECTURES))
def test_architectures_are_captured_or_say_why_not(name, caplog):
    subject = adapted(tiny_architectures.tiny(name), targets=tiny_architectures.targets_of(name))
    step = StaticStep(subject.hooks, Recording())
    decoder = on(step, Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 16, 8)))
    with caplog.at_level(logging.WARNING):
        results = decode(decoder, ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("ssft")]
    if name in HOST:
        assert len(warned) == 1
        assert f"take longer without: {HOST[name]}" in warned[0]
        assert step.capture is None
    else:
        assert not warned
        assert step.capture.replays


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.to("meta"),
        lambda x: torch.empty(2, device="meta").copy_(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.masked_select(x, x > 0),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_needs_the_host_is_found(read, inference):
    with torch.inference_mode(inference):
        x = torch.randn(2)
        with pytest.raises(RuntimeError, match="needs the host in the middle of a pass"), NoHostReads():
            read(x)


def test_what_needs_no_host_is_let_be():
    x = torch.randn(4, 6)
    with NoHostReads():
        y = x[:, 1:3] * 2.5 + torch.arange(4).unsqueeze(1)
        y = y.to(torch.bfloat16)[torch.arange(2)].scatter_(1, torch.zeros(2, 1, dtype=torch.long), 1.0)
        y[:, 0] = y[:, 1].masked_fill(y[:, 1] > 0, 3.0)
    assert y.shape == (2, 2)


def test_the_stand_in_replays_operators_and_no_python():
    number, x = 2, torch.ones(3)
    run = Recording()(lambda: ((x * number).view(3, 1).add_(x.sum()), None))
    number = 100
    x.fill_(5.0)
    assert run()[0].flatten().tolist() == [5 * 2 + 15] * 3
