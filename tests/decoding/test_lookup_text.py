"""Texts that a lookup drafts are the plain ones, and a budget drafts so where that pays."""

import functools
import math
import random

import pytest
from conftest import ARCHITECTURES, TINY, VOCABULARY, random_ids, with_adapter
from covering import covering
from invented_texts import COSTS, FakeCosts

from ssft.decoding.budget.replay import Trace, replay
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import BUDGETS, TREE_KINDS, TreeConfig
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.draft.lookup import LookupDrafter
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.request import Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

GAMMA = 3
TOKENS = 24
PROMPT = random.Random(0).sample(range(2, VOCABULARY), 40)


class Text:
    """A logits processor by which the text is what `token` says of its place, whatever the model thinks of it."""

    def __init__(self, begin, token):
        self.begin, self.token = begin, token

    def __call__(self, ids, scores):
        scores = scores.clone()
        scores[:, self.token(ids.shape[1] - self.begin)] += 1e4
        return scores


WRITTEN = {
    "always": lambda at: PROMPT[at],
    "sometimes": lambda at: PROMPT[at] if at % 5 else PROMPT[-1 - at // 5],
    "never": lambda at: PROMPT[-1 - at],
}
"""A text that copies its prompt; does so but for every fifth token; that is the prompt from behind."""


@functools.cache
def hooked(architecture):
    model = with_adapter(TINY[architecture](), StreamConfig(GAMMA, 2))
    return StreamHooks(model), streams_of(model)


def decode(architecture, requests, costs="flat"):
    budget = TunedBudget(FakeCosts(COSTS[costs]))
    *_, results = Scheduler(Step(hooked(architecture)[0]), budget=budget).decode(requests)
    return results


def written(hits, tree, drafter):
    return Request(PROMPT, TOKENS, drafter, tree, processors=[Text(len(PROMPT), WRITTEN[hits])])


@covering(architecture=ARCHITECTURES, kind=TREE_KINDS, hits=list(WRITTEN), streams=[False, True], nodes=[2, 6])
def test_drafts_of_a_lookup_that_hit_never_sometimes_or_always(architecture, kind, hits, streams, nodes):
    tree = TreeConfig(kind, nodes, 1, lookup=True)
    drafter = StreamDrafter(hooked(architecture)[1]) if streams else ForcedDrafter()
    (result,) = decode(architecture, [written(hits, tree, drafter)])
    assert result.token_ids == [WRITTEN[hits](at) for at in range(TOKENS)]
    fewest = 1 + math.ceil((TOKENS - 1) / nodes)
    if streams:  # whose random guesses may stand in the way
        assert result.calls <= TOKENS
    elif hits == "always":
        assert result.calls == fewest
        assert len(result.accepted) <= nodes
    elif hits == "never":
        assert result.calls == TOKENS
    else:
        assert fewest < result.calls < TOKENS


def test_a_copy_is_drafted_deeper_than_the_streams_reach():
    tree = TreeConfig("best_first", 16, 2, lookup=True)
    (result,) = decode("llama", [written("always", tree, StreamDrafter(hooked("llama")[1]))])
    assert result.token_ids == PROMPT[:TOKENS]
    assert len(result.accepted) > GAMMA + 1


@functools.cache
def plain(architecture, seed):
    """Four rows that say things over again, drawn or greedy, and each one's plain text alone."""
    draw = random.Random(seed)
    found = []
    for row in range(4):
        few = random_ids(1, 6, seed=10 * seed + row)[0].tolist()
        prompt = [draw.choice(few) for _ in range(draw.randint(3, 20))]
        kept = dict.fromkeys(few, 6.0) if row % 2 else {}
        settings = {"processors": [functools.partial(_more, kept)], "seed": 7 + row if row > 1 else None}
        (result,) = decode(architecture, [Request(prompt, TOKENS, **settings)])
        found.append((prompt, settings, result.token_ids))
    return found


def _more(kept, ids, scores):
    scores = scores.clone()
    for token, more in kept.items():
        scores[:, token] += more
    return scores


@covering(
    architecture=ARCHITECTURES,
    kind=TREE_KINDS,
    budget=BUDGETS,
    costs=list(COSTS),
    batch=[1, 4],
    depth=[0, 2],
    most=[0, 1],
)
def test_rows_with_and_without_a_lookup_say_what_they_say_alone_and_plainly(
    architecture, kind, budget, costs, batch, depth, most
):
    drafters = [StreamDrafter(hooked(architecture)[1]), ForcedDrafter(), LookupDrafter(), None]
    fewer, known, requests = 0, plain(architecture, batch), []
    for row, (prompt, settings, _) in enumerate(known):
        for number, drafter in enumerate(drafters):
            tree = TreeConfig(kind, 12, 3, depth, most, budget=budget, lookup=(row + number) % 2 == 0)
            requests.append((Request(prompt, TOKENS, drafter, tree, **settings), row))
    random.Random(batch).shuffle(requests)
    for begin in range(0, len(requests), batch):
        some = requests[begin : begin + batch]
        for (request, row), result in zip(some, decode(architecture, [r for r, _ in some], costs), strict=True):
            assert result.token_ids == known[row][2], (row, request.drafter, request.tree)
            fewer += request.looks_up and result.calls < TOKENS
    assert fewer > 2 or (budget == "auto" and costs == "steep")


# --- budgets ---


def copying(hits, tokens=60):
    """A trace of a long text without guesses; `hits`: how often the next token is what came before in its place."""
    draw = random.Random(f"{hits}/{tokens}")
    prompt = draw.sample(range(1000), 200)
    text = [prompt[at] if draw.random() < hits else draw.randrange(1000) for at in range(tokens)]
    return prompt, text


@pytest.mark.parametrize("hits", [0.0, 0.5, 0.95])
def test_a_replay_takes_the_passes_of_real_decoding(hits):
    prompt, text = random.Random(1).sample(range(2, VOCABULARY), 30), []
    draw = random.Random(2)
    text = [prompt[at] if draw.random() < hits else draw.randrange(VOCABULARY) for at in range(TOKENS)]
    tree = TreeConfig("best_first", 6, 2, lookup=True)
    request = Request(prompt, TOKENS, ForcedDrafter(), tree, processors=[Text(len(prompt), lambda at: text[at])])
    (real,) = decode("llama", [request])
    trace = Trace(Request(prompt, TOKENS, ForcedDrafter(), tree), text, [None] * TOKENS)
    found = replay([[trace]], tree, TunedBudget(FakeCosts(COSTS["flat"])))
    assert real.token_ids == text
    assert real.calls == 1 + found.passes


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cost", list(COSTS))
@pytest.mark.parametrize("hits", [0.0, 0.5, 0.95])
def test_auto_drafts_by_lookup_where_that_pays_and_is_plain_where_it_does_not(hits, cost, batch):
    tree = TreeConfig("best_first", 16, 4, budget="auto", lookup=True)
    traces = []
    for number in range(8):
        prompt, text = copying(hits, 60 + number)
        traces.append(Trace(Request(prompt, len(text), LookupDrafter(), tree), text, [None] * len(text)))
    batches = [traces[at : at + batch] for at in range(0, 8, batch)]
    costs = FakeCosts(COSTS[cost])
    plainly, auto = replay(batches, None, TunedBudget(costs)), replay(batches, tree, TunedBudget(costs))
    assert auto.milliseconds <= 1.02 * plainly.milliseconds
    if hits == 0.95 and cost == "flat":
        assert auto.milliseconds < 0.35 * plainly.milliseconds
    if hits == 0.0 and cost != "flat":  # there a node costs less than the little that is known at first
        assert sum((nodes - 1) * times for (nodes, _), times in auto.shapes.items()) < 0.5 * auto.passes
