"""Streamed text equals plain greedy text, token for token in float32, whatever the drafts are worth.

The reference is transformers' `generate` on the model before any hook. An `Oracle` replaces only what the streams
guess, so that drafts are never, sometimes or always right; trees, masks, passes and cache stay the real ones.
"""

import functools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ARCHITECTURES, TINY, VOCABULARY, random_ids, tiny_mistral, with_adapter
from covering import covering, over_architectures
from decoder import Decoder
from oracle import ALL, GAMMA, PROMPTS, TOKENS, TOP_K, Oracle, adapted, decode, generate, is_right

from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.errors import GenerationError
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

DRAFTS = ["never", "sometimes", "always"]
ROWS = {"batch1": [1], "batch3": ALL}
ENDINGS = ["budget", "eos"]


@functools.cache
def shared(architecture):
    return adapted(TINY[architecture]())


@functools.cache
def windowed(window):
    return adapted(tiny_mistral(sliding_window=window))


@pytest.fixture
def subject(architecture):
    return shared(architecture)


def first_seen(text):
    """Places in `text` whose token did not come before."""
    return [i for i, token in enumerate(text) if token not in text[:i]]


def late_eos(subject):
    """The token that row 1 says last for the first time: an EOS that ends it after some passes."""
    text = subject.texts[1]
    return {text[first_seen(text[:17])[-1]]}


def cut(text, tokens, eos=()):
    """(text up to the first EOS or the budget, reason)."""
    for i, token in enumerate(text[:tokens]):
        if token in eos:
            return text[: i + 1], "eos"
    return text[:tokens], "length"


def expected_calls(drafts, row, length, budget, gamma=GAMMA):
    """Passes that decoding must take, by walking through the text."""
    produced = calls = 1
    while produced < length:
        reach = min(gamma, budget - produced - 1)
        depth = next((d for d in range(reach) if not is_right(drafts, row, produced, d)), max(reach, 0))
        produced += depth + 1
        calls += 1
    return calls


def assert_accounts(result):
    """Every pass after the prompt's yields its accepted depth plus one token; only an EOS cuts some of them off."""
    assert sum(result.accepted) == result.calls - 1
    yielded = 1 + sum(times * (depth + 1) for depth, times in enumerate(result.accepted))
    if result.finish_reason == "length":
        assert yielded == len(result.token_ids)
    else:
        assert len(result.token_ids) <= yielded < len(result.token_ids) + len(result.accepted)


# --- before all: there is something to tell apart ---


def test_base_and_adapters_say_different_things(architecture):
    texts = [shared(architecture).texts, adapted(TINY[architecture](), seed=2).texts]
    base = TINY[architecture]()
    texts.append([generate(base, prompt, TOKENS) for prompt in PROMPTS])
    for prompt in range(len(PROMPTS)):
        starts = {tuple(of_model[prompt][:8]) for of_model in texts}
        assert len(starts) == 3
        assert len(set(texts[0][prompt])) > 10  # no loop of a few tokens, on which any draft would be right


def test_reference_with_eos_is_the_cut_reference(subject):
    eos = late_eos(subject)
    model = subject.model
    for prompt, text in zip(PROMPTS, subject.texts, strict=True):
        assert generate(model, prompt, TOKENS, eos) == cut(text, TOKENS, eos)[0]


# --- the heart ---


@over_architectures(kind=TREE_KINDS, drafts=DRAFTS, rows=ROWS, ending=ENDINGS)
def test_any_drafts_give_the_plain_text(subject, kind, drafts, rows, ending):
    eos = late_eos(subject) if ending == "eos" else set()
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, rows)
    results = decode(oracle, rows, eos=eos)
    for row, result in zip(rows, results, strict=True):
        expected, reason = cut(subject.texts[row], TOKENS, eos)
        assert result.token_ids == expected
        assert result.finish_reason == reason
        assert result.calls == expected_calls(drafts, row, len(expected), TOKENS)
        fewest = 1 + math.ceil((len(expected) - 1) / (GAMMA + 1))
        if drafts == "always":
            assert result.calls == fewest
        elif drafts == "never":
            assert result.calls == len(expected)
        else:
            assert fewest < result.calls < len(expected)
        assert_accounts(result)
    if ending == "eos":
        assert results[rows.index(1)].finish_reason == "eos"
        assert len(rows) == 1 or len({len(result.token_ids) for result in results}) > 1


@over_architectures(rows=ROWS, ending=ENDINGS)
def test_plain_mode_gives_the_plain_text(subject, rows, ending):
    eos = late_eos(subject) if ending == "eos" else set()
    for row, result in zip(rows, decode(Decoder(subject.hooks, None), rows, eos=eos), strict=True):
        assert (result.token_ids, result.finish_reason) == cut(subject.texts[row], TOKENS, eos)
        assert result.calls == len(result.token_ids)
        assert result.accepted == [len(result.token_ids) - 1]


@over_architectures(kind=TREE_KINDS, rows=ROWS, top_k=[4, VOCABULARY + 1])
def test_real_streams_give_the_plain_text(subject, kind, rows, top_k):
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig(kind, 24, top_k))
    for row, result in zip(rows, decode(decoder, rows), strict=True):
        assert result.token_ids == subject.texts[row][:TOKENS]
        assert_accounts(result)


@over_architectures(rows=ROWS)
def test_some_draft_of_the_real_streams_is_right(subject, rows):
    # Random streams are poor guessers, but with this many candidates per pass not all of them can be wrong.
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 64, 16))
    results = decode(decoder, rows)
    assert [r.token_ids for r in results] == [subject.texts[row][:TOKENS] for row in rows]
    assert sum(r.calls for r in results) < len(rows) * TOKENS


FORMS = {
    "one_projected": StreamConfig(1, 3, "embedding", 2),
    "six_rotated": StreamConfig(6, 1, "rotation", 0),
    "two_rotated_projected": StreamConfig(2, 3, "rotation", 2),
}


@over_architectures(config=FORMS)
def test_every_form_of_streams_gives_the_plain_text(architecture, config):
    subject = adapted(TINY[architecture](), texts=shared(architecture).texts, config=config)
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 32, 8))
    assert [r.token_ids for r in decode(decoder, ALL)] == [text[:TOKENS] for text in subject.texts]


@covering(kind=TREE_KINDS, drafts=DRAFTS, window=[2, 6])
def test_sliding_window_gives_the_plain_text(kind, drafts, window):
    subject = windowed(window)
    assert subject.texts != shared("mistral").texts
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, ALL)
    for text, result in zip(subject.texts, decode(oracle, ALL), strict=True):
        assert result.token_ids == text[:TOKENS]


# --- where a text ends ---


@over_architectures(pairs=False, kind=TREE_KINDS, place=range(GAMMA + 1))
def test_eos_inside_an_accepted_run_ends_the_text(subject, kind, place):
    """`place`: how many tokens of the run come before the EOS."""
    text = subject.texts[0]
    index = next(i for i in first_seen(text) if i > 4 and (i - 1) % (GAMMA + 1) == place)
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K), "always", [0])
    (result,) = decode(oracle, [0], eos={text[index]})
    assert result.token_ids == text[: index + 1]
    assert result.finish_reason == "eos"
    assert result.calls == 2 + (index - 1) // (GAMMA + 1)


def test_first_token_may_be_the_eos(subject):
    decoder = Decoder(subject.hooks, subject.streams)
    (result,) = decode(decoder, [0], eos={subject.texts[0][0]})
    assert (result.token_ids, result.finish_reason, result.calls) == (subject.texts[0][:1], "eos", 1)


@covering(architecture=ARCHITECTURES, kind=TREE_KINDS, rows=ROWS)
def test_one_token_takes_one_call(subject, kind, rows):
    for row, result in zip(rows, decode(Oracle(subject, TreeConfig(kind), "always", rows), rows, 1), strict=True):
        assert result.token_ids == subject.texts[row][:1]
        assert (result.calls, result.accepted, result.finish_reason) == (1, [], "length")


ACCEPTED = {2: [1], 3: [0, 1], 5: [0, 0, 0, 1], 6: [1, 0, 0, 1], 7: [0, 1, 0, 1]}


@over_architectures(pairs=False, kind=TREE_KINDS, tokens=list(ACCEPTED))
def test_budget_inside_an_accepted_run_ends_the_text(subject, kind, tokens):
    (result,) = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K), "always", [0]), [0], tokens)
    assert (result.token_ids, result.finish_reason) == (subject.texts[0][:tokens], "length")
    assert result.accepted == ACCEPTED[tokens]


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_more_streams_than_tokens_left(architecture, tokens):
    texts = shared(architecture).texts
    subject = adapted(TINY[architecture](), texts=texts, config=StreamConfig(8, 2))
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 32, 8))
    for text, result in zip(subject.texts, decode(decoder, ALL, tokens), strict=True):
        assert result.token_ids == text[:tokens]
        assert_accounts(result)


# --- the context's end ---

CONTEXT = 32


@functools.cache
def short_context(architecture):
    """A model of `CONTEXT` positions and prompts that leave 1, 4 and 22 of them."""
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (CONTEXT - 1, CONTEXT - 4, 10)]
    model = with_adapter(TINY[architecture](max_position_embeddings=CONTEXT), StreamConfig(GAMMA, 2))
    texts = [generate(model, prompt, CONTEXT - len(prompt)) for prompt in prompts]
    return StreamHooks(model), streams_of(model), prompts, texts


@over_architectures(pairs=False, kind=TREE_KINDS, chosen=[[0], [1], [2], ALL])
def test_text_ends_with_the_context(architecture, kind, chosen):
    hooks, streams, prompts, texts = short_context(architecture)
    decoder = Decoder(hooks, streams, TreeConfig(kind, 64, 4))
    results = decoder.generate([prompts[i] for i in chosen], 100)
    for i, result in zip(chosen, results, strict=True):
        assert len(texts[i]) == CONTEXT - len(prompts[i])
        assert (result.token_ids, result.finish_reason) == (texts[i], "length")
        assert_accounts(result)


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 9])
def test_prompt_without_room_for_an_answer_is_refused(architecture, length):
    hooks, streams, prompts, _ = short_context(architecture)
    message = f"a prompt has {length} tokens, but the model's context holds {CONTEXT}.*shorten the prompt"
    with pytest.raises(GenerationError, match=message):
        Decoder(hooks, streams).generate([prompts[2], [5] * length], 4)


def test_empty_prompt_is_refused(subject):
    with pytest.raises(GenerationError, match="a prompt has no tokens"):
        Decoder(subject.hooks, subject.streams).generate([PROMPTS[0], []], 4)


@pytest.mark.parametrize("tokens", [0, -1])
def test_nothing_asked_is_refused(subject, tokens):
    with pytest.raises(GenerationError, match=f"max_new_tokens={tokens}: at least one"):
        Decoder(subject.hooks, subject.streams).generate([PROMPTS[0]], tokens)


# --- settings of the tree ---


@over_architectures(pairs=False, kind=TREE_KINDS, most=[1, 2], drafts=["sometimes", "always"])
def test_fewer_nodes_with_streams_cost_calls_but_no_token(subject, kind, drafts, most):
    everywhere = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, ALL), ALL)
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K, max_stream_nodes=most), drafts, ALL)
    results = decode(oracle, ALL)
    assert max(oracle.widths) == most
    for row, result, free in zip(ALL, results, everywhere, strict=True):
        assert result.token_ids == subject.texts[row][:TOKENS]
        assert result.calls >= free.calls
        assert_accounts(result)
    if drafts == "sometimes":
        assert sum(r.calls for r in results) > sum(r.calls for r in everywhere)


@over_architectures(pairs=False, kind=TREE_KINDS, depth=[1, 2, 9])
def test_no_draft_is_deeper_than_max_depth(subject, kind, depth):
    results = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K, max_depth=depth), "always", ALL), ALL)
    reach = min(depth, GAMMA)
    for row, result in zip(ALL, results, strict=True):
        assert result.token_ids == subject.texts[row][:TOKENS]
        assert result.calls == 1 + math.ceil((TOKENS - 1) / (reach + 1))
        assert len(result.accepted) <= reach + 1


@over_architectures(pairs=False, kind=TREE_KINDS, together=[3, 9, 14])
def test_a_budget_for_the_batch_is_shared_and_costs_no_token(subject, kind, together, monkeypatch):
    sizes = []
    tree = TreeConfig(kind, 16, 8, max_batch_nodes=together)
    decoder = Decoder(subject.hooks, subject.streams, tree)
    real = Step.trees

    def trees(self, rows, sources, cache):
        sizes.append((len(rows), max(len(row.tree) for row in rows)))
        return real(self, rows, sources, cache)

    monkeypatch.setattr(Step, "trees", trees)
    eos = late_eos(subject)
    for row, result in zip(ALL, decode(decoder, ALL, eos=eos), strict=True):
        assert (result.token_ids, result.finish_reason) == cut(subject.texts[row], TOKENS, eos)
    assert all(largest <= max(2, together // count) for count, largest in sizes)
    assert len({count for count, _ in sizes}) > 1, "no row ended early, so the budget was never shared anew"


@over_architectures(pairs=False, kind=TREE_KINDS, max_nodes=[1, 2, 5])
def test_small_budgets_give_the_plain_text(subject, kind, max_nodes):
    results = decode(Oracle(subject, TreeConfig(kind, max_nodes, TOP_K), "sometimes", ALL), ALL)
    for row, result in zip(ALL, results, strict=True):
        assert result.token_ids == subject.texts[row][:TOKENS]
        assert len(result.accepted) <= max_nodes
        assert_accounts(result)


# --- neighbours ---


@over_architectures(pairs=False, kind=TREE_KINDS, drafts=["sometimes", "always"])
def test_rows_do_not_depend_on_their_neighbours(subject, kind, drafts):
    eos = late_eos(subject)
    tree = TreeConfig(kind, 16, TOP_K)
    together = decode(Oracle(subject, tree, drafts, ALL), ALL, eos=eos)
    for row, result in enumerate(together):
        (alone,) = decode(Oracle(subject, tree, drafts, [row]), [row], eos=eos)
        assert (result.token_ids, result.calls, result.accepted) == (alone.token_ids, alone.calls, alone.accepted)


def test_equal_prompts_have_equal_results_in_any_order(subject):
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 32, 8))
    results = decode(decoder, [2, 0, 2, 1])
    assert [r.token_ids for r in results] == [subject.texts[row][:TOKENS] for row in (2, 0, 2, 1)]
    assert results[0].accepted == results[2].accepted


@over_architectures(pairs=False, rows=ROWS)
def test_decoding_twice_gives_the_same(subject, rows):
    decoder = Decoder(subject.hooks, subject.streams)
    first, second = decode(decoder, rows), decode(decoder, rows)
    assert [(r.token_ids, r.calls, r.accepted) for r in first] == [(r.token_ids, r.calls, r.accepted) for r in second]


# --- budgets ---


def wild(draw):
    """Costs that are other ones in every pass, in no order."""
    return lambda b, n, m: draw.uniform(1, 3)


COSTS = {
    "free": lambda draw: lambda b, n, m: 1.0,
    "steep": lambda draw: lambda b, n, m: float(n + 2 * m),
    "wild": wild,
}


class FakeCosts:
    """c(B, n, m) as a function."""

    def __init__(self, cost):
        self.cost = cost

    def of(self, rows):
        found = lambda nodes, sources, left: np.array(  # noqa: E731
            [[self.cost(len(rows), n, m) for m in range(sources + 1)] for n in range(1, nodes + 1)]
        )
        return SimpleNamespace(table=found)


@over_architectures(kind=TREE_KINDS, drafts=DRAFTS, rows=ROWS, costs=COSTS, ending=ENDINGS)
def test_a_tuned_budget_gives_the_plain_text(subject, kind, drafts, rows, costs, ending):
    eos = late_eos(subject) if ending == "eos" else set()
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K, budget="auto"), drafts, rows)
    oracle.budget = TunedBudget(FakeCosts(costs(random.Random(0))))
    oracle.budget.took = lambda milliseconds: None  # real times would put the made-up costs right
    for row, result in zip(rows, decode(oracle, rows, eos=eos), strict=True):
        assert (result.token_ids, result.finish_reason) == cut(subject.texts[row], TOKENS, eos)
        assert_accounts(result)
        if costs is COSTS["free"] and drafts == "always":
            assert result.calls == 1 + math.ceil((len(result.token_ids) - 1) / (GAMMA + 1))
        if costs is COSTS["steep"] or drafts == "never":
            assert result.calls == len(result.token_ids)


def test_tuned_budgets_in_random_settings_give_the_plain_text(architecture):
    """Real streams, rows of all kinds side by side, one budget that learns from all of them."""
    draw, of = random.Random(0), shared(architecture)
    budget, fewer = TunedBudget(FakeCosts(wild(draw))), 0
    for _ in range(70):
        rows, requests = draw.choices(ALL, k=draw.randint(1, 4)), []
        for row in rows:
            tree = TreeConfig(
                draw.choice(TREE_KINDS),
                max_nodes=draw.choice([1, 2, 7, 40]),
                top_k=draw.choice([1, 4, 30]),
                max_depth=draw.randint(0, GAMMA),
                max_stream_nodes=draw.choice([0, 1, 3]),
                max_batch_nodes=draw.choice([0, 0, 20]),
                budget=draw.choice(["auto", "auto", "auto", "fixed"]),
            )
            streams = draw.choice([of.streams, of.streams, of.streams, None])
            requests.append(Decoder(of.hooks, streams, tree).request(PROMPTS[row], draw.randint(1, TOKENS)))
        *_, results = Scheduler(Step(of.hooks), budget=budget).decode(requests)
        for row, request, result in zip(rows, requests, results, strict=True):
            assert result.token_ids == of.texts[row][: request.max_new_tokens]
            fewer += len(result.token_ids) - result.calls
    assert fewer > 50, "no draft was right, so the test shows little"
