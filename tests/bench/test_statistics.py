"""Statistics of paired timings and of scored rows, against values worked out by hand."""

import numpy as np
import pytest

from ssft.bench.statistics import bootstrap_interval, mean_interval, speedup


def times(rows):
    return np.array(rows, dtype=float)


def test_ratios_are_paired_within_the_round():
    # The machine was half as fast in the second round: the ratios stay.
    baseline, method = times([[2, 4], [4, 8]]), times([[1, 2], [2, 4]])
    assert speedup(baseline, method) == 2


def test_speedup_is_the_median_over_the_rounds():
    baseline = times([[4], [4], [4]])
    assert speedup(baseline, times([[2], [1], [4]])) == 2
    assert speedup(baseline, times([[2], [1], [0.01]])) == 4


def test_speedup_weighs_units_by_their_time():
    assert speedup(times([[10, 1]]), times([[5, 6]])) == 1


def test_the_interval_holds_the_speedup_and_repeats_itself():
    random = np.random.default_rng(5)
    baseline = 2 + random.random((5, 20))
    method = baseline / (1.5 + 0.5 * random.random((5, 20)))
    low, high = bootstrap_interval(baseline, method, seed=3)
    assert low < speedup(baseline, method) < high
    assert 1.5 < low < high < 2
    assert bootstrap_interval(baseline, method, seed=3) == (low, high)
    assert bootstrap_interval(baseline, method, seed=4) != (low, high)


def test_more_prompts_narrow_the_interval():
    random = np.random.default_rng(6)

    def width(units):
        baseline = 1 + random.random((4, units))
        low, high = bootstrap_interval(baseline, 1 + random.random((4, units)))
        return high - low

    assert width(200) < width(5) / 2


def test_the_interval_covers_the_variation_between_prompts_and_not_only_between_rounds():
    assert bootstrap_interval(times([[1, 9]] * 3), times([[1, 3]] * 3)) == (1, 3)


def test_the_interval_is_that_of_samples_drawn_one_by_one():
    random = np.random.default_rng(9)
    baseline, method = 1 + random.random((4, 7)), 1 + random.random((4, 7))
    estimates = []
    for _ in range(4000):
        picked = np.ix_(random.integers(4, size=4), random.integers(7, size=7))
        estimates.append(speedup(baseline[picked], method[picked]))
    expected = np.quantile(estimates, [0.025, 0.975])
    assert bootstrap_interval(baseline, method, samples=4000) == pytest.approx(expected, abs=0.01)


def test_the_interval_per_token_is_that_of_samples_drawn_one_by_one():
    random = np.random.default_rng(11)
    baseline, method = 1 + random.random((4, 7)), 1 + random.random((4, 7))
    tokens = random.integers(1, 40, (4, 7)), random.integers(1, 40, (4, 7))
    estimates = []
    for _ in range(4000):
        picked = np.ix_(random.integers(4, size=4), random.integers(7, size=7))
        left, right = (
            seconds[picked].sum(1) / count[picked].sum(1)
            for seconds, count in zip((baseline, method), tokens, strict=True)
        )
        estimates.append(np.median(left / right))
    expected = np.quantile(estimates, [0.025, 0.975])
    assert bootstrap_interval(baseline, method, samples=4000, tokens=tokens) == pytest.approx(expected, rel=0.05)
    assert bootstrap_interval(baseline, method, samples=4000) != pytest.approx(expected, rel=0.05)


def test_a_ratio_per_token_is_that_of_seconds_where_tokens_are_the_same():
    baseline, method = times([[2, 4], [4, 8]]), times([[1, 2], [2, 4]])
    same = times([[3, 5], [3, 5]])
    assert speedup(baseline, method, (same, same)) == 2
    # Half the tokens in half the time; twice the tokens in half the time; none at all.
    for factor, speed in ((0.5, 1), (2, 4), (0, 0)):
        assert speedup(baseline, method, (same, factor * same)) == speed
    assert speedup(baseline, method, (0 * same, same)) == 2  # no cost per token to compare with
    assert speedup(baseline, method, (0 * same, 0 * same)) == 2


def test_the_interval_of_equal_times_is_a_point():
    assert bootstrap_interval(times([[2, 2]] * 2), times([[1, 1]] * 2)) == (2, 2)


def test_what_is_there_once_has_no_interval():
    assert bootstrap_interval(times([[2, 2]]), times([[1, 1]])) is None
    assert bootstrap_interval(times([[2], [2]]), times([[1], [1]])) is None
    assert bootstrap_interval(times([[2], [4]]), times([[1], [1]]), least_units=1) == (2, 4)
    assert bootstrap_interval(times([[2]]), times([[1]]), least_units=1) is None


def test_the_interval_holds_the_mean_and_repeats_itself():
    values = np.random.default_rng(1).random(40) * 100
    low, high = mean_interval(values, seed=3)
    assert low < values.mean() < high
    assert mean_interval(values, seed=3) == (low, high)
    assert mean_interval(values, seed=4) != (low, high)


def test_the_interval_is_that_of_the_normal_distribution_for_many_rows():
    values = np.array([0.0, 100.0, 100.0, 100.0] * 100)
    error = 1.96 * values.std() / len(values) ** 0.5
    assert mean_interval(values) == pytest.approx((75 - error, 75 + error), abs=0.5)


def test_more_rows_narrow_the_interval():
    def width(rows):
        low, high = mean_interval([0, 100, 100, 0, 100] * rows)
        return high - low

    # Sixteen times the rows, a quarter of the width.
    assert width(64) == pytest.approx(width(4) / 4, rel=0.15)


def test_equal_rows_give_a_point():
    assert mean_interval([100, 100, 100]) == (100, 100)
    assert mean_interval([40]) == (40, 40)
