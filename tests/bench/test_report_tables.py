"""The terminal's tables and lines, and the sentences about who is fastest."""

import pytest
from sample_results import E2E, ROWS, sample_bench, sample_suite

from ssft.bench.compare import Difference
from ssft.bench.findings import find
from ssft.bench.report import HEADERS, heading, human_bytes, remarks, table_rows, tables


def cells(result, method):
    row = next(row for row in table_rows(result) if row[0] == method)
    return dict(zip(HEADERS, row, strict=True))


def test_a_row_tells_speed_counts_memory_and_size():
    assert cells(sample_bench(), "streaming") == {
        "method": "streaming",
        "speed-up": "1.89 x",
        "95 % interval": "1.68 - 2.10",
        "tokens/s": "36.3",
        "tokens/call": "3.51",
        "prompt, s": "2.00",
        "decode, s": "7.10",
        "same as plain": "10/10",
        "extra params": 2304,
        "on disk": "9.42 kB",
        "peak memory": "40.0 MB",
    }


def test_a_yardstick_has_neither_speed_up_nor_text_to_compare():
    row = cells(sample_suite().tasks["sql"].bench, "llama_cpp")
    assert (row["speed-up"], row["95 % interval"], row["same as plain"], row["peak memory"]) == (None,) * 4
    assert row["tokens/s"] == "41.0"


def test_the_tables_of_a_suite():
    found = {title: (headers, rows) for title, headers, rows in tables(sample_suite())}
    assert list(found) == [
        "sql: speed-up against plain",
        "sql: left out",
        "dialogsum: speed-up against generate",
        "dialogsum: speed-up by category",
        "dialogsum: left out",
        "e2e_nlg: speed-up against plain",
        "e2e_nlg: left out",
        "Quality: the adapter, and its twin trained without streams",
    ]
    assert all(len(row) == len(headers) for headers, rows in found.values() for row in rows)
    headers, rows = found["dialogsum: speed-up by category"]
    assert headers == ["category", "prompts", *sample_suite().tasks["dialogsum"].bench.methods]
    assert [row[:2] for row in rows] == [["daily life", 5], ["office", 5]]
    assert rows[0][headers.index("generate")] == "1.00 x (1.00 - 1.00)"
    quality = found["Quality: the adapter, and its twin trained without streams"][1]
    assert quality[0] == ["sql", "exact", 40, "71.5", "66.5 - 76.5", "72.0", "67.0 - 77.0", "-0.5", "-2.5 to +1.5"]
    assert quality[-1] == ["e2e_nlg", "rouge1", 40, "66.0", "63.5 - 68.4", None, None, None, None]
    assert found["e2e_nlg: left out"][1][1][0] == "medusa"


def test_one_category_needs_no_table():
    result = sample_suite().tasks["dialogsum"].bench
    for method in result.methods.values():
        del method.categories["office"]
    assert [title for title, *_ in tables(result)] == ["speed-up against generate", "left out"]


def test_remarks_name_the_baseline_the_differences_and_the_depths():
    lines = remarks(sample_suite().tasks["e2e_nlg"].bench)
    assert lines[0] == "speed-up is against plain, the fastest plain method of plain, generate"
    assert "prompt_lookup: 1 of 10 outputs differ from plain's; `ssft verify` shows where and by what margin" in lines
    assert "prompt_lookup: prompt 4 parts at token 17, where plain leads by 0.031 logits" in lines
    assert "streaming: passes by depth of the accepted draft" in lines
    # 41 of 131 passes accepted nothing; the longest bar is the most frequent depth's.
    assert "   0   31%  " + "#" * 30 in lines


def test_a_method_that_promises_nothing_breaks_no_promise():
    result = sample_bench()
    result.methods["assisted"].lossless, result.methods["assisted"].identical = False, 3
    assert not any("assisted" in line and "differ" in line for line in remarks(result))
    assert "assisted does not promise plain's text; it gives it on 3 of 10 prompts." in find(result).details


def test_headings():
    assert heading(sample_bench()).startswith("sql: 10 prompts, at most 96 tokens, batch 1, 3 rounds, float32 on cpu")
    result = sample_suite()
    result.interrupted = True
    assert heading(result) == "sql, dialogsum, e2e_nlg: float32 on cpu: Intel Xeon, 2 threads, 2 threads, interrupted"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, None),
        (0, "0"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_424, "9.42 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (460_000_000, "460 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_bytes_have_three_digits(size, text):
    assert human_bytes(size) == text


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
        "prompt_lookup does not keep its promise: its text differs from plain's on 1 of 10 prompts." in finding.details
    )
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


def test_the_baseline_alone():
    result = sample_bench("sql", {"plain": E2E["plain"]})
    assert find(result).headline == "Only plain ran, so there is nothing to compare it with."
    assert (find(result).details, find(result).leader) == ([], None)


def test_the_yardstick_and_an_interruption_are_told():
    result = sample_suite().tasks["sql"].bench
    result.interrupted, result.rounds = True, 1
    *_, yardstick, interrupted = find(result).details
    assert yardstick.endswith("makes 41.0 tokens per second; streaming makes 36.3.")
    assert interrupted == "The run was interrupted; the numbers cover 1 whole round."


def test_a_missing_output_counts_as_different_even_without_its_place():
    result = sample_bench()
    result.methods["medusa"].identical = ROWS - 2
    result.methods["medusa"].differences = [Difference(3, 0, 300, None)]
    lines = remarks(result)
    assert any(line.startswith("medusa: 2 of 10 outputs differ") for line in lines)
    assert "medusa: prompt 3 parts at token 0" in lines
