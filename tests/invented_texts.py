"""Random texts with guesses that hit or miss, and made-up costs: what a budget does is reckoned, not timed."""

import math
import random
from types import SimpleNamespace

import numpy as np

from ssft.decoding.budget.replay import Trace
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree
from ssft.streams.config import StreamConfig

GAMMA = 4


class FakeDrafter(ForcedDrafter):
    """Stands for streams of an adapter; guesses come with the rows."""

    config = StreamConfig(num_streams=GAMMA)

    def __init__(self, streams=True):
        self.reach = GAMMA
        self.streams = self if streams else None

    def __hash__(self):
        return id(self)


def drafter():
    made = FakeDrafter()
    made.streams = FakeDrafter()
    return made


class FakeCosts:
    """c(B, n, m) as a function."""

    def __init__(self, cost):
        self.cost = cost

    def of(self, rows):
        def table(nodes, sources, left=1.0):
            return np.array([[self.cost(len(rows), n + 1, m) for m in range(sources + 1)] for n in range(nodes)])

        return SimpleNamespace(table=table)


COSTS = {
    "flat": lambda b, n, m: 20 + 0.05 * b * n + (m > 0) + 0.3 * b * m,
    "knee": lambda b, n, m: 21 + 0.15 * b * n + 1.5 * (m > 0) + 0.7 * b * m + 0.35 * max(0, b * (n + 2 * m) - 16),
    "steep": lambda b, n, m: 10 + 5 * b * n + 3 * b * m,
}


def guesses(draw, width=2, depth=GAMMA):
    """Random tokens and probabilities, best first."""
    found = Guesses([], [])
    for _ in range(depth):
        chances = sorted((draw.random() for _ in range(width)), reverse=True)
        whole = sum(chances) * (1 + draw.random())
        found.tokens.append(draw.sample(range(1000), width))
        found.scores.append([math.log(chance / whole) for chance in chances])
    return found


def row_with(own, tree, guessed, tokens=50):
    row = Row(Request([1], tokens, own, tree), tokens, DraftTree([7]))
    row.result.token_ids, row.guesses = [7], guessed
    return row


def trace(own, draw, right, said, tokens):
    """A random text; its guesses are right with the chance `right(easy, depth)` and say they are with `said`."""
    text, guessed = [draw.randrange(1000) for _ in range(tokens)], []
    for place in range(tokens):
        found, easy = Guesses([], []), draw.random() < 0.7
        for depth in range(GAMMA):
            token = text[place + 1 + depth] if place + 1 + depth < tokens else 0
            offered = [(token + 1 + k) % 1000 for k in range(4)]
            if draw.random() < right(easy, depth):
                offered[0] = token
            chance = said(easy, depth)
            found.tokens.append(offered)
            found.scores.append([math.log(chance), *(math.log((1 - chance) * share) for share in (0.3, 0.15, 0.05))])
        guessed.append(found)
    return Trace(Request([1], tokens, own), text, guessed)


KINDS = {
    "hits": (lambda easy, depth: (0.95 if easy else 0.5) - 0.05 * depth, lambda easy, depth: 0.9 if easy else 0.5, 96),
    "weak": (lambda easy, depth: 0.65 * 0.8**depth, lambda easy, depth: 0.6 * 0.8**depth, 96),
    "misses": (lambda easy, depth: 0.03, lambda easy, depth: 0.2, 96),
    "misses, sure of itself": (lambda easy, depth: 0.05, lambda easy, depth: 0.8, 96),
    "misses, short": (lambda easy, depth: 0.05, lambda easy, depth: 0.5, 8),
}
AUTO = TreeConfig("best_first", 16, 4, budget="auto")


def batches(own, kind, batch, seed=0, count=16):
    draw = random.Random(f"{kind}{seed}")
    right, said, tokens = KINDS[kind]
    traces = [trace(own, draw, right, said, tokens) for _ in range(count)]
    return [traces[begin : begin + batch] for begin in range(0, count, batch)]
