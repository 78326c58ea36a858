"""Passes in fixed shapes and memory say what passes of any shape say, captured or not.

A CUDA graph runs no Python. On a CPU `Recording` stands in for it, which replays operators on the tensors that they
were recorded with: what the code reads on the host is then of the recorded pass, and a text would show it.
"""

import functools
import itertools
import random

import pytest
import torch
from conftest import TINY, VOCABULARY, tiny_mistral
from covering import covering, over_architectures
from decoder import Decoder, on
from graph_stand_in import Recording
from invented_texts import FakeCosts
from oracle import ALL, DRAFTS, GAMMA, PROMPTS, ROWS, TOKENS, TOP_K, Oracle, adapted, decode, shared, spared_passes

from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.static import StaticStep
from ssft.decoding.step import Step
from ssft.decoding.tree import DraftTree
from ssft.streams.config import StreamConfig


@functools.cache
def step_of(architecture, captured):
    """One for all tests, so that its buckets come again with other trees."""
    return StaticStep(shared(architecture).hooks, Recording() if captured else None)


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
    """Trees of changing size, rows of all kinds side by side, a budget that learns; stores and buckets come and go.

    Nodes and streams cost a little: trees of `budget: auto` are neither all there may be nor none.
    """
    draw, subject, step = random.Random(0), shared(architecture), step_of(architecture, captured)
    budget = TunedBudget(FakeCosts(lambda b, n, m: 1 + 0.02 * n + 0.05 * m))
    assert sum(spared_passes(draw, subject, step, budget) for _ in range(20)) > 5, "no draft was right"


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


# --- as a GPU lays it out ---


def row_by_row(*arguments, **keywords):
    """What CUDA's kernels of attention give: the same output, in memory row by row and not head by head."""
    return HEAD_BY_HEAD(*arguments, **keywords).transpose(1, 2).contiguous().transpose(1, 2)


HEAD_BY_HEAD = torch.nn.functional.scaled_dot_product_attention


@pytest.mark.parametrize("step", [Step, functools.partial(StaticStep, capture=None)], ids=["any shape", "fixed shapes"])
def test_attention_may_lie_in_memory_row_by_row(step, monkeypatch):
    subject = shared("llama")
    assert subject.model.config.num_key_value_heads < subject.model.config.num_attention_heads
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", row_by_row)
    oracle = Oracle(subject, TreeConfig("k_ary", 16, TOP_K), "sometimes", ALL)
    results = decode(on(step(subject.hooks), oracle), ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
