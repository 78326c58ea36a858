"""Costs that were measured on a busy machine, or hold no more: what passes really take corrects them."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY, random_ids, with_adapter
from decoder import Decoder
from invented_texts import AUTO, COSTS, FakeCosts, batches, drafter, guesses, row_with

from ssft.decoding.budget.drift import LEAST, MOST, Drift
from ssft.decoding.budget.replay import replay
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TreeConfig
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

# --- the fit ---


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 2), (0.5, 0.5), (1, 3), (1.3, 0.9), (2, 3)])
def test_the_factor_is_that_of_what_a_draft_adds_however_slow_all_passes_are(a, b):
    draw, drift = random.Random(0), Drift()
    assert drift.factor == 1
    for _ in range(400):
        x = draw.choice([0, 0.3, 1.0])
        drift.note(x, a + b * x)
    assert drift.factor == pytest.approx(b / a, rel=0.1)


def test_passes_of_one_kind_tell_no_factor():
    drift = Drift()
    for _ in range(400):
        drift.note(0.3, 5.0)
    assert drift.factor == pytest.approx(1, abs=0.05)


def test_the_factor_has_limits():
    draw = random.Random(0)
    for b, limit in ((100.0, MOST), (-3.0, LEAST)):
        drift = Drift()
        for _ in range(400):
            x = draw.choice([0.0, 0.3])
            drift.note(x, 1 + b * x)
        assert drift.factor == limit


def test_a_pass_that_something_held_up_counts_little():
    draw, drift = random.Random(0), Drift()
    for _ in range(100):
        x = draw.choice([0, 0.3, 1.0])
        drift.note(x, 1 + x)
    drift.note(1.0, 1000.0)
    assert drift.factor < 1.2


# --- what it changes ---


class Really(FakeCosts):
    """Costs of another machine: what a draft adds is `times` as dear, and with `draw` the load goes up and down."""

    def __init__(self, cost, times, draw=None):
        super().__init__(lambda b, n, m: cost(b, 1, 0) + times * (cost(b, n, m) - cost(b, 1, 0)))
        self.draw, self.load, self.passes = draw, 1.0, 0

    def of(self, rows):
        if self.draw is not None:
            self.passes += 1
            self.load = self.draw.choice([1, 1.3, 2]) if self.passes % 200 == 0 else self.load
        slow = 1.0 if self.draw is None else self.load * math.exp(self.draw.gauss(0, 0.15))
        exact = super().of(rows)
        return SimpleNamespace(table=lambda nodes, sources, left=1.0: slow * exact.table(nodes, sources, left))


def speed(kind, believed, really, hears=True):
    """Over plain, with the loads left out, in texts after some others."""
    own, budget = drafter(), TunedBudget(FakeCosts(believed))
    if not hears:
        budget.took = lambda milliseconds: None
    replay(batches(own, kind, 1, 1), AUTO, budget, really)
    found = replay(batches(own, kind, 1, 2), AUTO, budget, really)
    return found.tokens * really.cost(1, 1, 0) / sum(really.cost(1, *shape) * n for shape, n in found.shapes.items())


@pytest.mark.parametrize("kind", ["hits", "weak"])
@pytest.mark.parametrize(("times", "least"), [(2.5, 1.1), (0.4, 1.15)])
def test_a_wrong_table_is_corrected_while_passes_run(kind, times, least):
    """Drafts that look cheap and are dear made decoding slower than plain; those that look dear are tried again."""
    really = Really(COSTS["steep"], times)
    deaf, found = (speed(kind, COSTS["steep"], really, hears) for hears in (False, True))
    assert found >= least * deaf
    assert found >= 0.97


@pytest.mark.parametrize("kind", ["hits", "weak", "misses", "misses, sure of itself"])
@pytest.mark.parametrize("cost", COSTS)
def test_a_machine_whose_load_goes_up_and_down_changes_little(kind, cost):
    noisy = Really(COSTS[cost], 1.0, random.Random(1))
    assert speed(kind, COSTS[cost], noisy) >= 0.95 * speed(kind, COSTS[cost], noisy, hears=False)


def test_what_a_draft_adds_decides_how_many_nodes_it_has():
    """By an invented table: many nodes where all costs the same, fewer where they cost more than was measured."""
    sizes = []
    for factor in (1, 3):
        budget = TunedBudget(FakeCosts(lambda b, n, m: 20 + 0.6 * n + 0.6 * m))
        for x in np.tile([0.0, 0.5], 100):
            budget._drift(1).note(x, 1 + factor * x)
        row = row_with(drafter(), TreeConfig("best_first", 32, 4, budget="auto"), guesses(random.Random(3), 4))
        budget.plan([row])
        sizes.append(len(row.tree))
    assert sizes[0] > sizes[1] > 1


def test_batches_that_take_turns_are_compared_with_their_own_costs(monkeypatch):
    """Two rows that go on plainly, one after the other, over costs of their own."""
    noted = []
    monkeypatch.setattr(Drift, "note", lambda self, x, y: noted.append((x, y)))

    class Each:
        def of(self, rows):
            return FakeCosts(lambda b, n, m: (1 if rows[0] is first else 10) * n * n + m).of(rows)

    budget = TunedBudget(Each())
    first, second = (row_with(drafter(), AUTO, None) for _ in range(2))
    for _ in range(4):
        for row, plain in ((first, 1), (second, 10)):
            budget.plan([row])
            budget.took(plain)
            row.result.token_ids.append(3)
    assert noted == [(0, 1)] * 8


# --- real passes ---


@pytest.mark.parametrize("kind", ["auto", "fixed", "plain"])
def test_passes_are_compared_with_their_costs(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path))
    model = with_adapter(TINY["llama"](), StreamConfig(3, 2))
    streams = None if kind == "plain" else streams_of(model)
    tree = TreeConfig("best_first", 8, 2, budget="fixed" if kind == "fixed" else "auto")
    of = Decoder(StreamHooks(model), streams, tree)
    of.budget = TunedBudget(FakeCosts(COSTS["flat"]))
    noted = []
    monkeypatch.setattr(Drift, "note", lambda self, x, y: noted.append((x, y)))
    (found,) = of.generate([random_ids(1, 9)[0].tolist()], 20)
    assert len(noted) == (found.calls - 1 if kind == "auto" else 0)
    assert all(x >= 0 and y > 0 for x, y in noted)
