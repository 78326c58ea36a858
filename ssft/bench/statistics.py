"""Statistics of paired timings, as pure functions.

Times are arrays [R, U] in seconds: R rounds, U units (batches of prompts, the same for every method). A round times
all methods, so what slows the machine down for a while slows all of them down, and their ratio within the round stays.
Where texts may differ, a ratio is one of seconds per token: `tokens` are the baseline's and the method's, [R, U] each.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SAMPLES = 2000
TAILS = (0.025, 0.975)
"""Ends of a 95 % interval."""

Tokens = tuple[np.ndarray, np.ndarray]


def round_ratios(baseline: np.ndarray, method: np.ndarray, tokens: Tokens | None = None) -> np.ndarray:
    """[R] baseline seconds / method seconds within each round, per token if `tokens` are given; above 1 the method is
    faster. A baseline without tokens leaves the seconds alone."""
    _check(baseline, method, *(tokens or ()))
    ratios = baseline.sum(axis=1) / method.sum(axis=1)
    return ratios if tokens is None else ratios * _more_tokens(*(counts.sum(axis=1) for counts in tokens))


def speedup(baseline: np.ndarray, method: np.ndarray, tokens: Tokens | None = None) -> float:
    """Median over the rounds of the paired ratios."""
    return float(np.median(round_ratios(baseline, method, tokens)))


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
    _check(baseline, method, *(tokens or ()))
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
    estimates = np.median(np.take_along_axis(ratios, drawn_rounds, axis=1), axis=1)
    low, high = np.quantile(estimates, TAILS)
    return float(low), float(high)


def _more_tokens(baseline: np.ndarray, method: np.ndarray) -> np.ndarray:
    """Method tokens / baseline tokens, any shape; 1 where the baseline has none."""
    return np.where(baseline > 0, method / np.maximum(baseline, 1), 1.0)


def _check(*arrays: np.ndarray) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 2 or not arrays[0].size:
        found = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"times and tokens must be arrays [rounds, units] of one shape, got {found}")


def spread(values: Sequence[float] | np.ndarray) -> float:
    """Standard deviation of a sample (n - 1); 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def add_histograms(histograms: Iterable[Sequence[int]]) -> list[int]:
    """Sum of histograms of unequal length, by index."""
    total: list[int] = []
    for histogram in histograms:
        total += [0] * (len(histogram) - len(total))
        for index, count in enumerate(histogram):
            total[index] += count
    return total
