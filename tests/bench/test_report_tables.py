"""The terminal's tables and lines, and the sentences about who is fastest."""

import pytest
from sample_results import E2E, ROWS, SQL, sample_bench, sample_suite

from ssft.bench.findings import broken, find, ranked
from ssft.bench.report import HEADERS, heading, histogram_lines, human_bytes, remarks, table_rows, tables
from ssft.bench.result import Difference


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
        "sql: what was trained for the methods",
        "sql: left out",
        "dialogsum: speed-up against generate",
        "dialogsum: speed-up by category",
        "dialogsum: what was trained for the methods",
        "dialogsum: left out",
        "e2e_nlg: speed-up against plain",
        "e2e_nlg: left out",
        "Quality: the adapter, and its twin trained without streams",
    ]
    assert all(len(row) == len(headers) for headers, rows in found.values() for row in rows)
    headers, rows = found["dialogsum: speed-up by category"]
    assert headers == ["category", "prompts", "baseline", *sample_suite().tasks["dialogsum"].bench.methods]
    assert [row[:3] for row in rows] == [["daily life", 5, "generate"], ["office", 5, "plain"]]
    # Each category's own baseline has no interval, all others have.
    assert [row[headers.index("generate")] for row in rows] == ["1.00 x", "0.90 x (0.80 - 1.05)"]
    assert [row[headers.index("plain")] for row in rows] == ["1.08 x (0.93 - 1.28)", "1.00 x"]
    headers, rows = found["sql: what was trained for the methods"]
    assert headers == ["method", "data", "rows", "steps", "seconds", "device"]
    assert rows == [
        ["assisted", "rows.jsonl.gz", 2000, 250, 1530, "cpu: Intel Xeon"],
        ["medusa", "rows.jsonl.gz", 1200, 150, None, None],
    ]
    quality = found["Quality: the adapter, and its twin trained without streams"][1]
    assert quality[0] == ["sql", "exact", 40, "71.5", "66.5 - 76.5", "72.0", "67.0 - 77.0", "-0.5", "-2.5 to +1.5"]
    assert quality[-1] == ["e2e_nlg", "rouge1", 40, "66.0", "63.5 - 68.4", None, None, None, None]
    assert found["e2e_nlg: left out"][1][1][0] == "medusa"


def test_an_unlike_twin_is_told():
    result = sample_suite()
    result.tasks["dialogsum"].quality.twin_unlike = ["training.seed (1, None)", "lora.r (4, 8)"]
    title, headers, rows = tables(result)[-1]
    assert (title, headers) == ("Where the twin's training was another", ["task", "adapter's, twin's"])
    assert rows == [["dialogsum", "training.seed (1, None)"], ["dialogsum", "lora.r (4, 8)"]]


def test_a_missing_interval_is_a_dash():
    result = sample_suite().tasks["dialogsum"].bench
    result.methods["streaming"].speedup_interval = None
    result.methods["streaming"].categories["office"].speedup_interval = None
    assert cells(result, "streaming")["95 % interval"] is None
    _, headers, rows = tables(result)[1]
    assert rows[1][headers.index("streaming")] == "1.14 x (-)"


def test_one_category_needs_no_table():
    result = sample_suite().tasks["dialogsum"].bench
    for method in result.methods.values():
        del method.categories["office"]
    titles = [title for title, *_ in tables(result)]
    assert titles == ["speed-up against generate", "what was trained for the methods", "left out"]


def test_remarks_name_the_baseline_the_differences_and_the_depths():
    lines = remarks(sample_suite().tasks["e2e_nlg"].bench)
    assert lines[0] == "speed-up is against plain, the fastest plain method of plain, generate"
    assert "prompt_lookup: 1 of 10 outputs differ from plain's" in lines
    assert "prompt_lookup: prompt 4 parts at token 17, where plain leads by 0.031 logits" in lines
    assert "streaming: passes by depth of the accepted draft" in lines
    # 41 of 131 passes accepted nothing; the longest bar is the most frequent depth's.
    assert "   0   31%  " + "#" * 30 in lines


def test_verify_is_named_for_streaming_and_the_first_places_are_counted():
    result = sample_bench()
    result.methods["streaming"].identical = ROWS - 4
    result.methods["streaming"].differences = [Difference(row, 2, 1, 3, 0.9) for row in range(4)]
    lines = remarks(result)
    assert "streaming: 4 of 10 outputs differ from plain's; `ssft verify` shows where and by what margin" in lines
    place = lines.index("streaming: the first 3 of 4 that part:")
    assert [f"prompt {row} parts" in lines[place + 1 + row] for row in range(4)] == [True, True, True, False]
    del result.methods["streaming"].differences[3:]
    assert not any("the first 3" in line for line in remarks(result))


def test_a_long_histogram_is_cut_and_grouped():
    assert histogram_lines([0, 2, 0, 0, 0]) == ["   0    0%", "   1  100%  " + "#" * 30]
    deep = [4, *[0] * 8, 1, 0, 5, 0]
    assert [line.split() for line in histogram_lines(deep)] == [
        ["0", "40%", "#" * 20],
        *([str(depth), "0%"] for depth in range(1, 9)),
        ["9+", "60%", "#" * 30],
    ]
    assert len(histogram_lines([*[0] * 8, 1, 0])) == 9


def test_a_method_that_promises_nothing_breaks_no_promise():
    result = sample_bench()
    result.methods["assisted"].lossless, result.methods["assisted"].identical = False, 3
    assert not any("assisted" in line and "differ" in line for line in remarks(result))
    assert "assisted does not promise plain's text; it gives it on 3 of 10 prompts." in find(result).details


def test_headings():
    assert heading(sample_bench()).startswith("sql: 10 prompts, at most 96 tokens, batch 1, 3 rounds, float32 on cpu")
    result = sample_suite()
    result.interrupted = True
    assert heading(result) == "sql, dialogsum, e2e_nlg: float32 on cpu: Intel Xeon, 2 threads, interrupted"


@pytest.mark.parametrize(
    ("device", "threads", "text"),
    [
        ("cpu: Intel Xeon, 1 threads", 1, "on cpu: Intel Xeon, 1 thread"),
        ("cpu: Intel Xeon, 8 threads", 2, "on cpu: Intel Xeon, 2 threads"),
        ("cuda: NVIDIA H100", 4, "on cuda: NVIDIA H100, 4 threads"),
    ],
)
def test_threads_stand_in_a_heading_once(device, threads, text):
    assert heading(sample_bench(device=device, threads=threads)).endswith(text)
    suite = sample_suite()
    suite.device, suite.threads = device, threads
    assert heading(suite).endswith(text)


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
    assert any(line.startswith("streaming: 2 of 10 outputs differ from plain's, at ties") for line in remarks(result))
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


def test_a_missing_output_counts_as_different_even_without_its_place():
    result = sample_bench()
    result.methods["medusa"].identical = ROWS - 2
    result.methods["medusa"].differences = [Difference(3, 0, 300, None)]
    lines = remarks(result)
    assert any(line.startswith("medusa: 2 of 10 outputs differ") for line in lines)
    assert "medusa: prompt 3 parts at token 0" in lines
