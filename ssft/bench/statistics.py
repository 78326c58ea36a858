"""Statistics of paired timings, as pure functions.

Times are arrays [R, U] in seconds: R rounds, U units (batches of prompts, the same for every method). A round times
all methods, so what slows the machine down for a while slows all of them down, and their ratio within the round stays.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SAMPLES = 2000


def round_ratios(baseline: np.ndarray, method: np.ndarray) -> np.ndarray:
    """[R] baseline seconds / method seconds within each round; above 1 the method is faster."""
    if baseline.shape != method.shape or baseline.ndim != 2 or not baseline.size:
        raise ValueError(f"times must be two arrays [rounds, units] of one shape, got {baseline.shape}, {method.shape}")
    return baseline.sum(axis=1) / method.sum(axis=1)


def speedup(baseline: np.ndarray, method: np.ndarray) -> float:
    """Median over the rounds of the paired ratios."""
    return float(np.median(round_ratios(baseline, method)))


def bootstrap_interval(
    baseline: np.ndarray, method: np.ndarray, seed: int = 0, samples: int = SAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of `speedup`: rounds and units are drawn with replacement, the same ones for both methods."""
    round_ratios(baseline, method)  # checks the shapes
    rounds, units = baseline.shape
    random = np.random.default_rng(seed)
    drawn_rounds = random.integers(rounds, size=(samples, rounds))
    drawn_units = random.integers(units, size=(samples, units))
    counts = np.zeros((samples, units))  # how often each unit was drawn
    np.add.at(counts, (np.arange(samples)[:, None], drawn_units), 1)
    ratios = (counts @ baseline.T) / (counts @ method.T)  # [samples, rounds]
    estimates = np.median(np.take_along_axis(ratios, drawn_rounds, axis=1), axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


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
