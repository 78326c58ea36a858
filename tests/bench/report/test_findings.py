"""The sentences about who is fastest, how surely, and with what text."""

import pytest
from sample_results import E2E, ROWS, SQL, sample_bench, sample_suite

from ssft.bench.report.findings import broken, find, ranked
from ssft.bench.result import Difference


def test_streaming_in_front():
    finding = find(sample_bench())
    assert finding.headline == "streaming is the fastest: 1.89 times (95 % interval 1.68 to 2.10) as fast as plain."
    assert finding.details == [
        "Next is medusa, which comes to 1.48 times (95 % interval 1.32 to 1.64); the two intervals do not overlap.",
        "The same text as plain's, token for token, on all 10 prompts: "
        "generate, prompt_lookup, assisted, medusa, streaming.",
    ]
    assert (finding.leader, finding.clear) == ("streaming", True)


def test_a_peer_in_front_is_said_first():
    finding = find(sample_suite().tasks["dialogsum"].bench)
    assert finding.headline.startswith("prompt_lookup is the fastest: 1.53 times")
    assert finding.headline.endswith("as fast as generate.")
    assert (
        finding.details[0] == "streaming comes to 1.26 times (95 % interval 1.12 to 1.40); the two intervals overlap."
    )


def test_an_interval_that_covers_1_is_no_win():
    result = sample_suite().tasks["e2e_nlg"].bench
    finding = find(result)
    assert finding.headline.startswith("Nothing is clearly faster than plain: streaming comes out 1.08 times")
    assert finding.headline.endswith("and that interval covers 1.")
    assert finding.clear is False
    assert (
        "prompt_lookup does not keep its promise: its text differs from plain's on 1 of 10 prompts; at 0.98 times "
        "(95 % interval 0.85 to 1.11) as fast as plain it is not ranked."
    ) in finding.details
    # At exactly 1 it still covers 1.
    result.methods["streaming"].speedup_interval = (1.0, 1.2)
    assert not find(result).clear
    result.methods["streaming"].speedup_interval = (1.001, 1.2)
    assert find(result).clear


def test_slower_than_the_baseline():
    result = sample_bench("e2e_nlg", {name: row for name, row in E2E.items() if name != "streaming"})
    for method in result.methods.values():
        method.speedup, method.speedup_interval = 0.9, (0.85, 0.95)
    assert find(result).headline.startswith("Nothing beats plain: the nearest, generate, is 0.90 times")


def part(result, name, margins):
    """Let a method's texts part from plain's, once per margin."""
    method = result.methods[name]
    method.identical = ROWS - len(margins)
    method.differences = [Difference(row, 5, 1, 2, margin) for row, margin in enumerate(margins)]


def test_a_broken_promise_is_not_ranked():
    result = sample_bench()
    part(result, "streaming", [0.01])
    finding = find(result)
    assert finding.headline.startswith("medusa is the fastest: 1.48 times")
    assert (finding.leader, next(iter(ranked(result))), broken(result)) == ("medusa", "medusa", {"streaming": 1})
    assert not any("streaming comes" in line or "Next is streaming" in line for line in finding.details)
    assert (
        "streaming does not keep its promise: its text differs from plain's on 1 of 10 prompts; at 1.89 times (95 % "
        "interval 1.68 to 2.10) as fast as plain it is not ranked."
    ) in finding.details
    assert "streaming" not in next(line for line in finding.details if line.startswith("The same text"))


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "4bit"])
def test_a_tie_in_low_precision_breaks_no_promise(precision):
    result = sample_bench(precision=precision)
    part(result, "streaming", [0.01, 0.5])
    finding = find(result)
    assert finding.leader == "streaming"
    assert (
        "streaming: 2 of 10 texts part at ties, where plain leads by at most 0.5 logits and rounding in "
        f"{precision} decides."
    ) in finding.details
    assert not any("promise" in line for line in finding.details)
    assert (broken(result), broken(result, tied=True)) == ({}, {"streaming": 2})
    for margins in ([0.01, 0.51], [0.01, None]):
        part(result, "streaming", margins)
        assert find(result).leader == "medusa"
    # A prompt without a place is no tie.
    part(result, "streaming", [0.01])
    result.methods["streaming"].identical -= 1
    assert broken(result) == {"streaming": 2}


def test_nobody_is_ranked_where_all_break_their_promise():
    result = sample_bench("sql", {name: SQL[name] for name in ("plain", "streaming")})
    part(result, "streaming", [None])
    finding = find(result)
    assert finding.headline == "No method beside plain keeps plain's text, so none is ranked."
    assert (finding.leader, finding.clear) == (None, False)


def test_without_an_interval_nobody_is_clearly_faster():
    result = sample_bench()
    result.methods["streaming"].speedup_interval = None
    finding = find(result)
    assert finding.headline == (
        "Nothing is clearly faster than plain: streaming comes out 1.89 times as fast, and there are too few rounds or "
        "prompts for an interval."
    )
    assert (finding.leader, finding.clear) == ("streaming", False)
    assert finding.details[0] == "Next is medusa, which comes to 1.48 times (95 % interval 1.32 to 1.64)."
    result.methods["medusa"].speedup_interval = None
    assert find(result).details[0].endswith("1.48 times (too few rounds or prompts for an interval).")


def test_the_baseline_alone():
    result = sample_bench("sql", {"plain": E2E["plain"]})
    assert find(result).headline == "Only plain ran, so there is nothing to compare it with."
    assert (find(result).details, find(result).leader) == ([], None)


def test_the_yardstick_and_an_interruption_are_told():
    result = sample_suite().tasks["sql"].bench
    result.interrupted, result.rounds = True, 1
    *_, yardstick, interrupted = find(result).details
    assert yardstick.endswith("makes 41.0 tokens per second; streaming makes 36.3.")
    part(result, "streaming", [0.9])
    assert find(result).details[-2].endswith("; medusa makes 28.4.")
    assert interrupted == "The run was interrupted; the numbers cover 1 whole round."


def test_a_method_that_promises_nothing_breaks_no_promise():
    result = sample_bench()
    result.methods["assisted"].lossless, result.methods["assisted"].identical = False, 3
    assert broken(result) == {}
    assert "assisted does not promise plain's text; it gives it on 3 of 10 prompts." in find(result).details


def test_a_missing_output_counts_as_different_even_without_its_place():
    result = sample_bench()
    result.methods["medusa"].identical = ROWS - 2
    result.methods["medusa"].differences = [Difference(3, 0, 300, None)]
    assert broken(result) == {"medusa": 2}
