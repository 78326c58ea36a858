"""Streamed text equals plain greedy text also where a budget chooses the trees, whatever it takes passes to cost."""

import math
import random

from covering import over_architectures
from invented_texts import FakeCosts
from oracle import (
    DRAFTS,
    ENDINGS,
    GAMMA,
    ROWS,
    TOKENS,
    TOP_K,
    Oracle,
    assert_accounts,
    cut,
    decode,
    late_eos,
    shared,
    spared_passes,
)

from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.step import Step


def wild(draw):
    """Costs that are other ones in every pass, in no order."""
    return lambda b, n, m: draw.uniform(1, 3)


COSTS = {
    "free": lambda draw: lambda b, n, m: 1.0,
    "steep": lambda draw: lambda b, n, m: float(n + 2 * m),
    "wild": wild,
}


@over_architectures(kind=TREE_KINDS, drafts=DRAFTS, rows=ROWS, costs=COSTS, ending=ENDINGS)
def test_a_tuned_budget_gives_the_plain_text(architecture, kind, drafts, rows, costs, ending):
    subject = shared(architecture)
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
    budget, step = TunedBudget(FakeCosts(wild(draw))), Step(of.hooks)
    budget.took = lambda milliseconds: None  # real times would put the made-up costs right
    spared = sum(spared_passes(draw, of, step, budget) for _ in range(40))
    assert spared > 50, "no draft was right, so the test shows little"
