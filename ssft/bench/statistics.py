"""Statistics of paired timings and of scores, as pure functions.

Times are arrays [R, U] in seconds: R rounds, U units (batches of prompts, the same for every method). A round times
all methods, so what slows the machine down for a while slows all of them down, and their ratio within the round stays.
Where texts may differ, a ratio is one of seconds per token: `tokens` are the baseline's and the method's, [R, U] each.
"""

from collections.abc import Sequence

import numpy as np

SAMPLES = 2000
TAILS = (0.025, 0.975)
"""Ends of a 95 % interval."""

Tokens = tuple[np.ndarray, np.ndarray]


def speedup(baseline: np.ndarray, method: np.ndarray, tokens: Tokens | None = None) -> float:
    """Median over the rounds of baseline seconds / method seconds within the round, per token if `tokens` are given;
    above 1 the method is faster. A baseline without tokens leaves the seconds alone."""
    ratios = baseline.sum(axis=1) / method.sum(axis=1)
    if tokens is not None:
        ratios *= _more_tokens(*(counts.sum(axis=1) for counts in tokens))
    return float(np.median(ratios))


def bootstrap_interval(
    baseline: np.ndarray,
    method: np.ndarray,
    seed: int = 0,
    samples: int = SAMPLES,
    tokens: Tokens | None = None,
    least_units: int = 2,
) -> tuple[float, float] | None:
    """Bootstrap 95 % interval of `speedup`: rounds and units are drawn with replacement, the same ones for both.

    None with fewer than 2 rounds or `least_units` units: what is there once says nothing of its spread. With one unit
    the interval is that of the rounds alone.
    """
    rounds, units = baseline.shape
    if rounds < 2 or units < least_units:
        return None
    random = np.random.default_rng(seed)
    drawn_rounds = random.integers(rounds, size=(samples, rounds))
    drawn_units = random.integers(units, size=(samples, units))
    counts = np.zeros((samples, units))  # how often each unit was drawn
    np.add.at(counts, (np.arange(samples)[:, None], drawn_units), 1)
    ratios = (counts @ baseline.T) / (counts @ method.T)  # [samples, rounds]
    if tokens is not None:
        ratios *= _more_tokens(counts @ tokens[0].T, counts @ tokens[1].T)
    return _ends(np.median(np.take_along_axis(ratios, drawn_rounds, axis=1), axis=1))


def mean_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean of `values`, drawn with replacement; a point where all are equal, so few rows
    that are all right or all wrong say less than it looks."""
    array = np.asarray(values, dtype=float)
    random = np.random.default_rng(seed)
    return _ends([array[random.integers(len(array), size=len(array))].mean() for _ in range(SAMPLES)])


def _ends(estimates: Sequence[float] | np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(estimates, TAILS)
    return float(low), float(high)


def _more_tokens(baseline: np.ndarray, method: np.ndarray) -> np.ndarray:
    """Method tokens / baseline tokens, any shape; 1 where the baseline has none."""
    return np.where(baseline > 0, method / np.maximum(baseline, 1), 1.0)
