"""The sentences about who is fastest, how surely, and with what text."""

import pytest
from sample_results import E2E, ROWS, SQL, sample_bench, sample_suite

from ssft.bench.report.findings import broken, find, ranked
from ssft.results.schema import Difference


def test_streaming_in_front():
    finding = find(sample_bench())
    assert finding.headline == "streaming is the fastest: 1.89 times (95 % interval 1.68 to 2.10) as fast as plain."
    assert finding.details == [
        "Next is medusa, which comes to 1.48 times (95 % interval 1.32 to 1.64).",
        "The same text as plain's, token for token, on every prompt: "
        "generate, prompt_lookup, assisted, medusa, streaming.",
    ]
    assert (finding.leader, finding.clear) == ("streaming", True)


def test_a_peer_in_front_is_said_first():
    finding = find(sample_suite().tasks["dialogsum"].bench)
    assert finding.headline.startswith("prompt_lookup is the fastest: 1.53 times")
    assert finding.headline.endswith("as fast as generate.")
    assert finding.details[0] == "streaming comes to 1.26 times (95 % interval 1.12 to 1.40)."


def test_an_interval_that_covers_1_is_no_win():
    result = sample_suite().tasks["e2e_nlg"].bench
    finding = find(result)
    assert finding.headline == (
        "Nothing is clearly faster than plain: streaming is 1.08 times (95 % interval 0.92 to 1.24) as fast."
    )
    assert finding.clear is False
    assert (
        "prompt_lookup does not keep its promise: its text differs from plain's on 1 of 10 prompts, so it is not "
        "ranked."
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
        "streaming does not keep its promise: its text differs from plain's on 1 of 10 prompts, so it is not ranked."
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
        "Nothing is clearly faster than plain: streaming is 1.89 times (too few rounds or prompts for an interval) as "
        "fast."
    )
    assert (finding.leader, finding.clear) == ("streaming", False)
    assert finding.details[0] == "Next is medusa, which comes to 1.48 times (95 % interval 1.32 to 1.64)."
    result.methods["medusa"].speedup_interval = None
    assert find(result).details[0].endswith("1.48 times (too few rounds or prompts for an interval).")


def test_the_baseline_alone():
    result = sample_bench("sql", {"plain": E2E["plain"]})
    assert find(result).headline == "Only plain ran, so there is nothing to compare it with."
    assert (find(result).details, find(result).leader) == ([], None)


def test_an_interruption_is_told_and_a_yardstick_never_leads():
    result = sample_suite().tasks["sql"].bench
    result.interrupted, result.rounds = True, 1
    assert find(result).details[-1] == "The run was interrupted; the numbers cover 1 whole round."
    assert not any("llama_cpp" in line for line in (find(result).headline, *find(result).details))


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
