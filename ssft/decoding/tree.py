"""Draft trees as pure functions: grow one from the streams' guesses, flatten it, mask it (paper §3.2.2, A.1).

After the main stream issued x3, the streams beside the accepted node guess x4 (stream 1), x5 (stream 2), …:

    x3 ─┬─ x4 ─┬─ x5        tokens  [x3, x4, x4', x5, x5']
        │      └─ x5'       parents [-1,  0,   0,  1,   1 ]
        └─ x4'              depths  [ 0,  1,   1,  2,   2 ]

Depth d nodes come from stream d, and from whatever else offers tokens (`draft/grown.py`). A parent always stands before
its children.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class DraftTree:
    """A flattened tree of n nodes; node 0 is the root, the token that the main stream issued last.

    scores[i] is the streams' joint log-probability of the path to node i (0 at the root).
    """

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    depths: list[int] = field(default_factory=lambda: [0])
    scores: list[float] = field(default_factory=lambda: [0.0])

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, nodes: int) -> "DraftTree":
        """The tree of its first nodes; a parent stands before its children, so that none is missing."""
        return DraftTree(self.tokens[:nodes], self.parents[:nodes], self.depths[:nodes], self.scores[:nodes])

    def pick(self, nodes: Sequence[int]) -> "DraftTree":
        """The tree of these nodes, ascending, among which the parent of each is."""
        place = {node: i for i, node in enumerate(nodes)}
        return DraftTree(
            [self.tokens[node] for node in nodes],
            [place.get(self.parents[node], -1) for node in nodes],
            [self.depths[node] for node in nodes],
            [self.scores[node] for node in nodes],
        )

    def children(self) -> dict[int, dict[int, int]]:
        """Node -> {token: child}; the first of two siblings with one token, as both lead on to the same text."""
        found: dict[int, dict[int, int]] = {}
        for node in range(1, len(self)):
            found.setdefault(self.parents[node], {}).setdefault(self.tokens[node], node)
        return found

    def trail(self, node: int) -> list[int]:
        """The tokens on the way from the root, which is left out, to the node."""
        tokens: list[int] = []
        while node:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]

    def add(self, token: int, parent: int, score: float) -> int:
        """Append a child of `parent` and return its index."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.scores.append(score)
        return len(self.tokens) - 1


Offer = tuple[Sequence[int], Sequence[float]]
"""Tokens that may stand under a node, best first, and their log-probabilities."""
Offers = Callable[[int], Offer]
"""A node's offer, asked when the node stands in the tree."""
NOTHING: Offer = ((), ())


def merged(guessed: Offer, found: Offer) -> Offer:
    """One offer of a drafter's guesses under a node and of what a lookup found there, best first.

    A token with the chance p as a guess and q as a find is missed where both are wrong, which come about in different
    ways: 1 - (1 - p)(1 - q). A guess alone keeps its p. A find alone contradicts guesses that leave 1 - P to all
    others; as they are too sure of themselves, it gets q · √(1 - P), midway between its own word and theirs. Chances
    that exceed 1 together are scaled down to it.
    """
    if not guessed[0] or not found[0]:
        return guessed if guessed[0] else found
    chances = {token: math.exp(score) for token, score in zip(*guessed, strict=True)}
    contradicted = math.sqrt(max(1 - sum(chances.values()), 0.0))
    for token, score in zip(*found, strict=True):
        p, q = chances.get(token), math.exp(score)
        chances[token] = q * contradicted if p is None else 1 - (1 - p) * (1 - q)
    whole = max(1.0, sum(chances.values()))
    tokens = sorted(chances, key=lambda token: -chances[token])
    # A chance of 0 has no logarithm.
    return tokens, [math.log(max(chances[token] / whole, 1e-9)) for token in tokens]


def grow(tree: DraftTree, offers: Offers, kind: str, budget: int) -> None:
    """Add what is offered under each node, the new ones included, until the tree has `budget` nodes."""
    (_grow_best_first if kind == "best_first" else _grow_levels)(tree, offers, budget)


def _grow_levels(tree: DraftTree, offers: Offers, budget: int) -> None:
    """The paper's full tree, level by level: each node gets all that is offered under it."""
    level = [0]
    while level:
        children: list[int] = []
        for parent in level:
            for token, score in zip(*offers(parent), strict=True):
                if len(tree) >= budget:
                    return
                children.append(tree.add(token, parent, tree.scores[parent] + score))
        level = children


def _grow_best_first(tree: DraftTree, offers: Offers, budget: int) -> None:
    """Take the likeliest path of all not yet taken until the node budget is spent.

    A node's rivals enter the heap only when it is taken: its next sibling and its first child, so the heap stays small
    and the order is exact, since neither can be likelier than the node itself.
    """
    heap: list[tuple[float, int, int]] = []  # negative joint log-probability, parent, rank among the parent's children
    found: dict[int, Offer] = {}

    def enter(parent: int, rank: int) -> None:
        if rank == 0:
            found[parent] = offers(parent)
        scores = found[parent][1]
        if rank < len(scores):
            heapq.heappush(heap, (-(tree.scores[parent] + scores[rank]), parent, rank))

    enter(0, 0)
    while heap and len(tree) < budget:
        negative, parent, rank = heapq.heappop(heap)
        node = tree.add(found[parent][0][rank], parent, -negative)
        enter(parent, rank + 1)
        enter(node, 0)


def ancestor_mask(tree: DraftTree) -> np.ndarray:
    """[n, n] bool: row i is True at i and at its ancestors, which is all of the tree that node i may see."""
    size = len(tree)
    mask = np.eye(size, dtype=bool)
    for node in range(1, size):
        mask[node] |= mask[tree.parents[node]]
    return mask


def stop_order(tree: DraftTree) -> list[int]:
    """Nodes by the streams' probability that verification stops there, likeliest first.

    That is the probability of reaching a node minus that of going on to one of its children: only the streams of the
    node where verification stops are ever used.
    """
    stop = np.exp(np.array(tree.scores))
    for node in range(1, len(tree)):
        stop[tree.parents[node]] -= np.exp(tree.scores[node])
    return [int(i) for i in np.argsort(-stop, kind="stable")]
