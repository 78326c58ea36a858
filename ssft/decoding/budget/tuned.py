"""`TunedBudget`: every pass takes the nodes and the streams that pay, by what they cost and what is accepted.

Let c(n, m) be what a pass over the B rows costs with n nodes a row, m of which carry streams, in passes of plain
decoding (`cost.py`: c(1, 0) = 1; a pass is padded, so that n and m are those of all rows). P_b(v) is the calibrated
probability that verification in row b reaches node v (`calibration.py`), P_b(root) = 1; every node reached yields one
token. s ≥ 1 is how many times as many tokens come in the same time as come plainly: the time of one plain pass must
yield s·B tokens elsewhere. The pass takes the n and m with the largest

    Σ_b Σ_{v < n} P_b(v) + V(n, m) - s · B · c(n, m)

where each row's nodes stand in the order of their probability, and its stream nodes are those where verification stops
most likely. So a node joins while its probability times the tokens per millisecond pays for the milliseconds it adds,
and a node gets streams while the chance that verification stops there pays for them; one choice for all rows of the
batch. What streams are worth is the next pass: with S_b(n, m) the chance that row b stops at one of its stream nodes,
G_b the tokens that its usual draft yields beyond those that come without guesses, which is the root's one and what a
lookup finds, and D what the nodes of the one draft cost beyond those of the other, in tokens,

    V(n, m) = max(0, Σ_b S_b · G_b - (1 - Π_b (1 - S_b)) · D)

Where neither pays, the pass is plain.

c is corrected by the time that passes really take (`drift.py`), since the machine may be busier than it was when costs
were measured, or was busy then. Where branches are dropped inside a pass (`prune.py`), it is the cost of a pass in
which as large a share of the nodes goes on as in the latest ones.

Plain passes leave no guesses, so now and then one of them carries streams beside the root. The plain tokens that follow
tell whether those guesses were right, at no further cost. That is after 8 plain passes, then 16, 32, … up to 256, and
after 8 again once drafts pay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ssft.decoding.budget.calibration import Calibration
from ssft.decoding.budget.drift import Drift
from ssft.decoding.budget.fixed import fixed_sources, fixed_tree, padded
from ssft.decoding.config import AUTO
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.grown import grown
from ssft.decoding.draft.lookup import HitRates, Lookup
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree, stop_order

FIRST_LOOK, LAST_LOOK = 8, 256
"""Plain passes before streams are tried again: at first, and at most."""
ROW_MEMORY, ADAPTER_MEMORY, PASS_MEMORY, WORTH_MEMORY = 32, 40, 10, 3
"""Judged guesses of a row and of an adapter, passes, and drafts of a row, after which an old one counts 1/e."""


MARGIN = 0.1
"""Nodes and streams must yield so much more than their cost: estimates err, and of several the best one most."""


class Costs(Protocol):
    """Whoever knows the cost of a pass; `PassCosts` measures it."""

    def of(self, rows: Sequence[Row]) -> Any:
        """An object whose `table(nodes, sources, left)` is that of a `CostTable` of a pass over these rows."""


@dataclass(eq=False)
class Past:
    """What a row has shown so far.

    guesses: its latest, made when it had `place` tokens; `judged` of their depths are known to be right or wrong.
    gain, cost: G and D in tokens, `weighed` once they are known. news: whether the next pass may be unlike the one
    before. quiet: passes since it had streams; `wait`: how many there may be. plain: a plain pass as `took` knows it.
    """

    calibration: Calibration
    guesses: Guesses | None = None
    place: int = 0
    judged: int = 0
    gain: float = 0.0
    cost: float = 0.0
    weighed: bool = False
    news: bool = True
    quiet: int = 0
    wait: int = FIRST_LOOK
    plain: tuple[int, float, float] | None = None


class TunedBudget:
    """Plans passes; rows whose tree has a fixed budget get that.

    It may be shared by all schedulers of a model that take turns. What was accepted is remembered for every adapter.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self._pasts: WeakKeyDictionary[Row, Past] = WeakKeyDictionary()
        self._adapters: WeakKeyDictionary[Any, Calibration] = WeakKeyDictionary()
        self._hit_rates: WeakKeyDictionary[Any, HitRates] = WeakKeyDictionary()
        # Tokens and time of the latest passes, both in those of plain ones.
        self._tokens = self._time = 1.0
        # Where branches are dropped: the size of each row's latest tree; by adapter, nodes that went on, of how many.
        self._sizes: WeakKeyDictionary[Row, int] = WeakKeyDictionary()
        self._left: WeakKeyDictionary[Any, tuple[float, float]] = WeakKeyDictionary()
        # By batch size: how far passes are from their costs.
        self._drifts: dict[int, Drift] = {}
        # Of the pass that was planned last: rows, milliseconds of a plain one, and by how many of those it costs more.
        self._planned: tuple[int, float, float] | None = None

    @property
    def speedup(self) -> float:
        """s: expected tokens per time of the latest passes over those of plain passes, at least 1."""
        return max(1.0, self._tokens / self._time)

    def calibration(self, row: Row) -> Calibration:
        """What is known of the adapter, or other drafter, that drafts for the row."""
        return self._adapters.setdefault(_author(row), Calibration(ADAPTER_MEMORY))

    def lookup(self, row: Row) -> Lookup | None:
        """What the row drafts from its own history, with the hit rates of its drafter's other rows; None: nothing."""
        if not row.request.looks_up:
            return None
        shared = self._hit_rates.setdefault(_author(row), HitRates())
        return Lookup(row.request.prompt, HitRates(shared))

    def learn(self, row: Row) -> None:
        """Compare the row's latest guesses with the tokens that have come since."""
        past = self._pasts.get(row)
        if past is None or past.guesses is None:
            return
        width = row.request.tree.width
        came = row.result.token_ids[past.place :]
        while past.judged < min(len(past.guesses.tokens), len(came)):
            depth = past.judged
            offered, scores = past.guesses.tokens[depth][:width], past.guesses.scores[depth][:width]
            past.judged, past.news = depth + 1, True
            if not past.calibration.judge(past.judged, offered, scores, came[depth]):
                past.judged = len(past.guesses.tokens)

    def went_on(self, rows: list[Row]) -> None:
        """Learn what share of the trees that were planned is left in the rows, once the pass has dropped branches."""
        kept = 1 - 1 / PASS_MEMORY
        for row in rows:
            if planned := self._sizes.pop(row, 0):
                left, nodes = self._left.get(_author(row), (0.0, 0.0))
                self._left[_author(row)] = kept * left + len(row.tree), kept * nodes + planned

    def _share_left(self, rows: list[Row]) -> float:
        """The share of the nodes that goes on, which is that of the row with most: a pass has one width."""
        known = [self._left.get(_author(row), (1.0, 1.0)) if row.request.prunes else (1.0, 1.0) for row in rows]
        return max(left / nodes for left, nodes in known)

    def took(self, milliseconds: float) -> None:
        """Compare the time of the pass that was planned last with its cost, if that is known."""
        if self._planned is not None:
            rows, plain, more = self._planned
            self._drift(rows).note(more, milliseconds / plain)

    def _drift(self, rows: int) -> Drift:
        return self._drifts.setdefault((rows - 1).bit_length(), Drift())

    def plan(self, rows: list[Row]) -> list[list[int]]:
        """Give every row the tree that its next pass verifies, and say which nodes carry streams: [B][m]."""
        tuned = [row for row in rows if row.request.tree.budget == AUTO and _has_chances(row)]
        sources: dict[Row, list[int]] = {}
        for row in rows:
            if row not in tuned:
                row.tree = fixed_tree(row, len(rows))
                sources[row] = fixed_sources(row)
        if tuned:
            carried = max(map(len, sources.values()), default=0)
            sources |= self._tune(rows, {row: self._past(row) for row in tuned}, carried)
        else:
            self._planned = None
        if any(sources.values()):
            self._sizes.update({row: len(row.tree) for row in rows if row.request.prunes and len(row.tree) > 1})
        return padded([sources[row] for row in rows])

    def _tune(self, rows: list[Row], pasts: dict[Row, Past], sources: int) -> dict[Row, list[int]]:
        """Trees and stream nodes of the rows in `pasts`; the others' trees stand, with so many stream nodes."""
        nodes = max((len(row.tree) for row in rows if row not in pasts), default=1)
        if nodes == 1 and not sources and not any(past.news for past in pasts.values()):
            for past in pasts.values():  # as plain as the pass before, for nothing has changed
                past.quiet += 1
            plain = next(iter(pasts.values())).plain
            self._planned = plain if plain is not None and plain[0] == len(rows) else None
            return {row: [] for row in pasts}
        trees = {row: _tree(row, past, row.guesses, len(rows)) for row, past in pasts.items()}
        usual = [
            trees[row] if row.guesses else _tree(row, past, past.guesses, len(rows)) for row, past in pasts.items()
        ]
        widest = max(nodes, *map(len, trees.values()), *map(len, usual))
        limits = {row: _most_sources(row, tree) for row, tree in trees.items()}
        most = max(sources, *limits.values())
        cost = self.costs.of(rows).table(widest, most, self._share_left(rows))
        more = (cost / cost[0, 0] - 1) * self._drift(len(rows)).factor
        price = self.speedup * len(rows) * (1 + (1 + MARGIN) * more)
        curves = [expected(tree, widest) for tree in usual]
        without = [
            np.ones(widest) if row.lookup is None else expected(_tree(row, past, None, len(rows)), widest)
            for row, past in pasts.items()
        ]
        weigh(list(pasts.values()), curves, without, price[nodes - 1 :, min(most, 1)])
        tokens = np.sum([expected(tree, widest) for tree in trees.values()], axis=0)
        stops = [stop_chances(tree, widest, most, limits[row]) for row, tree in trees.items()]
        # A draft for the next pass is of no use to a row that has but one token left then.
        gains = [min(past.gain, max(row.left - 2, 0)) for row, past in pasts.items()]
        worth = worth_of_drafts(stops, gains, float(np.mean([past.cost for past in pasts.values()])))
        n, m = best(tokens[:, None] + worth - price, nodes, sources)
        if m == 0 and most and _look_again(pasts):
            m = 1
        self._planned = (len(rows), cost[0, 0], cost[n - 1, m] / cost[0, 0] - 1)
        self._remember((tokens[n - 1] + len(rows) - len(pasts)) / len(rows), 1 + more[n - 1, m])
        for row, past in pasts.items():
            row.tree = trees[row].first(n)
            past.news, past.plain = n > 1 or m > 0, (len(rows), cost[0, 0], 0.0)
            past.quiet = 0 if m else past.quiet + 1
            past.wait = FIRST_LOOK if len(row.tree) > 1 and m else past.wait
        return {row: sorted(stop_order(row.tree)[: min(m, limits[row])]) for row in pasts}

    def _past(self, row: Row) -> Past:
        """What the row has shown; the guesses that it has now are the latest."""
        if (past := self._pasts.get(row)) is None:
            past = self._pasts[row] = Past(Calibration(ROW_MEMORY, self.calibration(row)))
        if row.guesses is not None and row.guesses is not past.guesses:
            past.guesses, past.place, past.judged, past.news = row.guesses, len(row.result.token_ids), 0, True
        # A grammar may force tokens, and a lookup find some, at any place.
        past.news = past.news or past.quiet >= past.wait or row.parser is not None or row.lookup is not None
        return past

    def _remember(self, tokens: float, time: float) -> None:
        """A pass of so many tokens and so much time, both in plain passes."""
        kept = 1 - 1 / PASS_MEMORY
        self._tokens, self._time = kept * self._tokens + tokens, kept * self._time + time


def _author(row: Row) -> Any:
    """An adapter's streams, which stay while drafters over them come and go, or another drafter."""
    return row.request.streams or row.request.drafter


def _has_chances(row: Row) -> bool:
    """Whether the row's drafts have probabilities, by which their nodes can be chosen."""
    return bool(row.request.depth) or row.lookup is not None


def _tree(row: Row, past: Past, guesses: Guesses | None, batch: int) -> DraftTree:
    """The largest tree that the row may have under its calibrated probabilities."""
    calibrated = None if guesses is None else past.calibration.calibrated(guesses)
    return grown(row, calibrated, row.request.tree.nodes_in_batch(batch))


def _most_sources(row: Row, tree: DraftTree) -> int:
    """Nodes of the tree that may carry streams."""
    return min(len(tree), row.request.tree.max_stream_nodes or len(tree)) if row.request.stream_depth else 0


def _look_again(pasts: dict[Row, Past]) -> bool:
    """Whether a row that will go on has been without guesses for as long as it may; it then may twice as long."""
    due = [past for row, past in pasts.items() if past.quiet >= past.wait and row.left > 2]
    for past in due:
        past.wait = min(2 * past.wait, LAST_LOOK)
    return bool(due)


# -- the choice -------------------------------------------------------------------------------------------------------


def expected(tree: DraftTree, nodes: int) -> np.ndarray:
    """[nodes] tokens that a pass is expected to yield with the first 1 … nodes nodes of a tree, or all that it has."""
    tokens = np.exp(tree.scores).cumsum()
    return np.pad(tokens, (0, max(nodes - len(tokens), 0)), "edge")[:nodes]


def stop_chances(tree: DraftTree, nodes: int, sources: int, limit: int) -> np.ndarray:
    """[nodes, sources + 1] chance that verification of the first 1 … nodes nodes stops at one of the 0 … sources nodes
    where it most likely does; `limit` of them at most."""
    size = min(len(tree), nodes)
    reached = np.exp(tree.scores[:size])
    change = np.diag(reached)
    change[np.arange(1, size), tree.parents[1:size]] -= reached[1:]
    stops = change.cumsum(axis=0).clip(min=0)  # [first n nodes, node]
    chances = np.zeros((size, max(sources, size) + 1))
    chances[:, 1 : size + 1] = np.flip(np.sort(stops, axis=1), axis=1).cumsum(axis=1)
    chances[:, size + 1 :] = chances[:, size, None]
    chances[:, limit + 1 :] = chances[:, limit, None]
    return np.pad(chances, ((0, nodes - size), (0, 0)), "edge")[:, : sources + 1]


def weigh(
    pasts: Sequence[Past], curves: Sequence[np.ndarray], without: Sequence[np.ndarray], price: np.ndarray
) -> None:
    """Renew G and D of every row by its usual draft and the one without guesses, each with the number of nodes that is
    best for all rows together.

    curves: `expected` of each row's latest guesses; without: of no guesses. price: in tokens, of passes with the least
    number of nodes that may be chosen, and of each larger one.
    """
    begin = len(curves[0]) - len(price)
    n, least = (int(np.argmax(np.sum(yields, axis=0)[begin:] - price)) for yields in (curves, without))
    for past, curve, bare in zip(pasts, curves, without, strict=True):
        share = 1 / WORTH_MEMORY if past.weighed else 1.0
        past.gain += share * (float(curve[begin + n] - bare[begin + least]) - past.gain)
        past.cost += share * (float(price[n] - price[least]) - past.cost)
        past.weighed = True


def worth_of_drafts(stops: Sequence[np.ndarray], gains: Sequence[float], cost: float) -> np.ndarray:
    """V [nodes, sources + 1], tokens: of rows with the `stop_chances` stops (S), `gains` (G) and `cost` (D)."""
    none = np.prod([1 - chances for chances in stops], axis=0)
    return np.maximum(sum(chances * gain for chances, gain in zip(stops, gains, strict=True)) - (1 - none) * cost, 0.0)


def best(gain: np.ndarray, nodes: int = 1, sources: int = 0) -> tuple[int, int]:
    """(n, m) of the largest gain [n - 1, m], with at least so many nodes and stream nodes."""
    place = int(np.argmax(gain[nodes - 1 :, sources:]))
    n, m = divmod(place, gain.shape[1] - sources)
    return n + nodes, m + sources
