"""The numbers of a comparison follow from the times and answers of its rounds, which these tests make by hand."""

import pytest
from scripted_methods import Scripted

from ssft.bench.rounds import Timed
from ssft.bench.summary import Record, summarise
from ssft.decoding.request import Generation

UNITS = [[1, 0], [2]]


def answer(tokens, prompt_seconds=0.0, calls=0, prompt_tokens=1):
    return Generation([5] * tokens, calls or tokens, prompt_seconds=prompt_seconds, prompt_tokens=prompt_tokens)


def by_hand(kind, *rounds):
    """A method whose rounds are [(seconds, answers) of each of `UNITS`]."""
    seconds, outputs = ([[unit[part] for unit in units] for units in rounds] for part in (0, 1))
    return Record(Scripted("", [], kind=kind), UNITS, Timed(seconds, outputs))


def summarised(records, categories=None):
    return summarise(records, categories, 0)


def test_prompt_time_is_that_of_the_slowest_row_of_each_batch():
    def plain(factor):
        pair = [answer(6, 1 * factor), answer(6, 2 * factor)]
        return [(8 * factor, pair), (6 * factor, [answer(5, 1 * factor)])]

    # In the second round the machine is half as fast: the medians lie between, the ratios stay. The other method gives
    # three of four tokens of each text with its first pass.
    drafting = [answer(6, 3, 2, 4), answer(6, 1, 3, 4)]
    other = [(5, drafting), (5, [answer(5, 1, 2, 3)])]
    slower = [(10, [answer(6, 6, 2, 4), answer(6, 2, 3, 4)]), (10, [answer(5, 2, 2, 3)])]
    candidates = {"plain": by_hand("plain", plain(1), plain(2)), "other": by_hand("speculative", other, slower)}
    results, baseline = summarised(candidates)
    assert baseline == "plain"
    found = results["plain"]
    assert (found.seconds, found.prompt_seconds, found.decode_seconds) == (21, 1.5 * (2 + 1), 16.5)
    assert (found.tokens, found.prompt_tokens, found.calls, found.passes) == (17, 3, 17, 6 + 5)
    assert (found.speedup, found.decode_speedup, found.tokens_per_call) == (1, 1, 1)
    found = results["other"]
    assert (found.seconds, found.prompt_seconds, found.decode_seconds) == (15, 1.5 * (3 + 1), 9)
    assert (found.tokens, found.prompt_tokens, found.calls, found.passes) == (17, 11, 7, 3 + 2)
    assert found.speedup == pytest.approx(14 / 10)
    # Plain needs 14 - 3 seconds for 17 - 3 tokens after the first passes, the other 10 - 4 seconds for 17 - 11.
    assert found.decode_speedup == pytest.approx((11 / 14) / (6 / 6))


def thirds(tokens, seconds, rounds=2):
    """Three texts of `tokens` tokens each; a unit takes `seconds` for each of its texts."""
    return [[(2 * seconds, [answer(tokens, seconds / 10)] * 2), (seconds, [answer(tokens, seconds / 10)])]] * rounds


def test_a_third_of_the_tokens_in_a_third_of_the_time_is_no_speed():
    candidates = {
        "plain": by_hand("plain", *thirds(30, 3.0)),
        "generate": by_hand("plain", *thirds(10, 1.1)),  # less time, and more per token
        "streaming": by_hand("speculative", *thirds(10, 1.0)),
    }
    results, baseline = summarised(candidates, ["a", "a", "b"])
    assert baseline == "plain"
    streaming = results["streaming"]
    assert streaming.speedup == pytest.approx(1)
    assert streaming.speedup_interval == pytest.approx((1, 1))
    # Seconds after the first pass for 29 and for 9 tokens of each text.
    plain_cost, cost = (9 - 0.6) / (3 * 29), (3 - 0.2) / (3 * 9)
    assert streaming.decode_speedup == pytest.approx(plain_cost / cost)
    assert results["generate"].speedup == pytest.approx(1 / 1.1)
    assert streaming.seconds == pytest.approx(3)
    assert streaming.tokens_per_second == pytest.approx(10)
    for category in ("a", "b"):
        assert streaming.categories[category].baseline == "plain"
        assert streaming.categories[category].speedup == pytest.approx(1)


def test_units_of_unlike_length_give_an_interval_of_seconds_per_token():
    # Half the seconds for half the tokens in the first unit, for the same tokens in the second.
    plain = [[(4.0, [answer(4)] * 2), (4.0, [answer(8)])]] * 3
    other = [[(2.0, [answer(2)] * 2), (2.0, [answer(8)])]] * 3
    results, _ = summarised({"plain": by_hand("plain", *plain), "other": by_hand("speculative", *other)})
    assert results["other"].speedup == pytest.approx(2 * 12 / 16)
    assert results["other"].speedup_interval == pytest.approx((1, 2))


def test_there_is_no_interval_from_one_round_or_one_unit():
    one = {name: by_hand("plain", *thirds(4, 1.0, rounds=1)) for name in ("plain", "other")}
    results, _ = summarised(one, ["a", "a", "b"])
    assert {results[name].speedup_interval for name in one} == {None}
    two = {name: by_hand("plain", *thirds(4, 1.0)) for name in ("plain", "other")}
    results, _ = summarised(two, ["a", "a", "b"])
    assert results["other"].speedup_interval == pytest.approx((1, 1))
    assert {entry.speedup_interval for entry in results["other"].categories.values()} == {None}


def test_a_text_that_comes_whole_with_its_first_pass_has_no_decoding_to_compare():
    whole = [[(2.0, [answer(4, 1.0, 1, 4)] * 2), (1.0, [answer(4, 1.0, 1, 4)])]]
    candidates = {"plain": by_hand("plain", *thirds(4, 1.0, 1)), "other": by_hand("speculative", *whole)}
    results, _ = summarised(candidates)
    assert (results["other"].prompt_tokens, results["other"].decode_speedup) == (12, None)
    assert results["plain"].decode_speedup == pytest.approx(1)
