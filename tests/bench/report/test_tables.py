"""A comparison as tables: what each method did, where texts part, what was left out."""

import pytest
from sample_results import sample_bench, sample_suite

from ssft.bench.report.tables import heading, tables
from ssft.results.schema import Difference


def found(result):
    """Title -> [rows][columns] as text, the names of the columns first."""
    return {table.title: [[column.name for column in table.head], *table.texts()] for table in tables(result)}


def cells(result, method):
    names, *rows = found(result)[f"speed-up against {result.baseline}"]
    return dict(zip(names, next(row for row in rows if row[0] == method), strict=True))


def test_a_row_tells_speed_counts_memory_and_size():
    assert cells(sample_bench(), "streaming") == {
        "method": "streaming",
        "speed-up": "1.89× (1.68 – 2.10)",
        "decoding": "2.14×",
        "tokens/s": "36.3",
        "tokens/call": "3.51",
        "calls": "94",
        "prompts, s": "2.00",
        "decoding, s": "7.10",
        "same text": "10",
        "extra parameters": "2,304",
        "on disk": "9.42 kB",
        "peak memory": "40.00 MB",
    }
    # The baseline's own speed-up is 1 by definition.
    assert cells(sample_bench(), "plain")["speed-up"] == "1.00× (1.00 – 1.00)"


def test_a_yardstick_has_neither_speed_up_nor_text_to_compare():
    row = cells(sample_suite().tasks["sql"].bench, "llama_cpp")
    nothing = {name for name, cell in row.items() if cell == "–"}
    assert nothing == {"speed-up", "decoding", "same text", "peak memory"}
    assert row["tokens/s"] == "41.0"


def test_the_tables_of_a_suite():
    shown = found(sample_suite())
    drafts = "share of passes by depth of the accepted draft"
    assert list(shown) == [
        "sql: speed-up against plain",
        f"sql: {drafts}",
        "sql: what was trained for the methods",
        "sql: left out",
        "dialogsum: speed-up against generate",
        f"dialogsum: {drafts}",
        "dialogsum: speed-up by category",
        "dialogsum: drafts by category",
        "dialogsum: what was trained for the methods",
        "dialogsum: left out",
        "e2e_nlg: speed-up against plain",
        "e2e_nlg: where texts part from plain's",
        f"e2e_nlg: {drafts}",
        "e2e_nlg: left out",
        "quality in percent, with 95 % intervals; the twin was trained without streams",
    ]
    assert shown["sql: what was trained for the methods"] == [
        ["method", "data", "rows", "steps", "seconds", "device"],
        ["assisted", "rows.jsonl.gz", "2,000", "250", "1,530", "cpu: Intel Xeon"],
        ["medusa", "rows.jsonl.gz", "1,200", "150", "–", "–"],
    ]
    assert shown["e2e_nlg: where texts part from plain's"][1] == ["prompt_lookup", "4", "17", "417", "23", "0.031"]
    assert shown["e2e_nlg: left out"][2][0] == "medusa"
    quality = list(shown.values())[-1]
    assert quality[1] == ["sql", "exact", "40", "71.5 (66.5 – 76.5)", "72.0 (67.0 – 77.0)", "−0.5 (−2.5 to +1.5)"]
    assert quality[-1] == ["e2e_nlg", "rouge1", "40", "66.0 (63.5 – 68.4)", "–", "–"]


def test_each_category_has_its_own_baseline():
    result = sample_suite().tasks["dialogsum"].bench
    result.methods["medusa"].categories["office"].speedup_interval = None
    names, daily, office = found(result)["speed-up by category"]
    assert names == ["category", "prompts", "baseline", *result.methods]
    assert (daily[:3], office[:3]) == (["daily life", "5", "generate"], ["office", "5", "plain"])
    plain, generate, medusa = (names.index(name) for name in ("plain", "generate", "medusa"))
    assert (daily[plain], office[plain]) == ("1.08× (0.93 – 1.28)", "1.00× (1.00 – 1.00)")
    assert (daily[generate], office[generate]) == ("1.00× (1.00 – 1.00)", "0.90× (0.80 – 1.05)")
    assert office[medusa] == "1.05× (–)"
    for method in result.methods.values():
        del method.categories["office"]
    assert "speed-up by category" not in found(result)


def test_an_unlike_twin_is_told():
    result = sample_suite()
    result.tasks["dialogsum"].quality.twin_unlike = ["training.seed (1, None)", "lora.r (4, 8)"]
    assert found(result)["where the twin's training was another, or is not known"] == [
        ["task", "adapter's, twin's"],
        ["dialogsum", "training.seed (1, None)"],
        ["dialogsum", "lora.r (4, 8)"],
    ]


def test_fastest_baseline_and_broken_promise_are_marked():
    result = sample_bench()
    names = list(result.methods)
    table = tables(result)[0]
    assert table.notes == [
        "10 prompts, at most 96 tokens, batch 1, 3 rounds; plain is the fastest plain method of plain, generate"
    ]
    assert {names[row]: mark for row, mark in table.marks.items() if mark} == {"plain": "base", "streaming": "best"}
    result.methods["streaming"].identical = 6
    marks = {names[row]: mark for row, mark in tables(result)[0].marks.items() if mark}
    assert marks == {"plain": "base", "medusa": "best", "streaming": "wrong"}


def test_the_first_places_where_texts_part():
    result = sample_bench()
    result.methods["streaming"].differences = [Difference(row, 2, 1, None) for row in range(4)]
    table = next(table for table in tables(result) if table.title == "where texts part from plain's")
    assert table.texts() == [["streaming", str(row), "2", "1", "–", "–"] for row in range(3)]
    assert table.notes == ["at most 3 of each method; a lead near zero is a tie that rounding decides"]


@pytest.mark.parametrize(
    ("accepted", "names", "shares"),
    [
        ([0, 2, 0, 0, 0], ["0", "1"], ["0%", "100%"]),
        ([*[0] * 8, 1, 0], [*"012345678"], [*["0%"] * 8, "100%"]),
    ],
)
def test_depths_end_with_the_deepest_draft(accepted, names, shares):
    result = sample_bench()
    for name, method in result.methods.items():
        method.accepted = accepted if name == "streaming" else []
    assert found(result)["share of passes by depth of the accepted draft"] == [
        ["method", *names],
        ["streaming", *shares],
    ]


def test_headings():
    assert heading(sample_bench()).startswith("sql: 10 prompts, at most 96 tokens, batch 1, 3 rounds, float32 on cpu")
    assert "3 rounds before an interruption" in heading(sample_bench(interrupted=True))
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
