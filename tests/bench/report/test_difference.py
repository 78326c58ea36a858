"""Two results side by side: verdicts, texts, settings that were not the same."""

import pytest
from sample_results import SQL, sample_bench, sample_suite

from ssft.bench.report.difference import (
    ABSENT,
    FASTER,
    INCOMPARABLE,
    ONLY_A,
    ONLY_B,
    SLOWER,
    UNCLEAR,
    compare_results,
    difference_table,
)
from ssft.errors import ConfigError
from ssft.results.schema import Difference

NOT_COMPARED = "sql: texts were not compared: a result keeps none, or prompts or the length of texts are not the same"


def by_method(found):
    return {(entry.task, entry.method): entry for entry in found.methods}


def test_the_same_result_twice():
    found = compare_results(sample_suite(), sample_suite())
    assert found.remarks == []
    assert found.texts == {"sql": [], "dialogsum": [], "e2e_nlg": []}
    assert len(found.methods) == 7 + 6 + 4
    assert {entry.verdict for entry in found.methods if entry.method != "llama_cpp"} == {UNCLEAR}
    assert {entry.ratio for entry in found.methods if entry.method != "llama_cpp"} == {1}
    assert by_method(found)["sql", "llama_cpp"].verdict == ABSENT


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((2.11, 2.5), FASTER), ((2.09, 2.5), UNCLEAR), ((1.2, 1.67), SLOWER), ((1.2, 1.69), UNCLEAR), ((1, 3), UNCLEAR)],
)
def test_the_verdict_is_the_intervals(interval, verdict):
    a, b = sample_bench(), sample_bench()
    a.methods["streaming"].speedup_interval = (1.68, 2.10)
    b.methods["streaming"].speedup_interval = interval
    entry = by_method(compare_results(a, b))["sql", "streaming"]
    assert entry.verdict == verdict


def test_the_ratio_is_b_over_a():
    a, b = sample_bench(), sample_bench()
    a.methods["medusa"].speedup, b.methods["medusa"].speedup = 1.5, 1.8
    entry = by_method(compare_results(a, b))["sql", "medusa"]
    assert entry.ratio == pytest.approx(1.2)
    assert by_method(compare_results(b, a))["sql", "medusa"].ratio == pytest.approx(1 / 1.2)


def test_a_planted_token_and_a_cut_text_are_found():
    a, b = sample_bench(), sample_bench()
    b.outputs[7] = b.outputs[7][:5]
    b.outputs[3] = [*b.outputs[3][:12], 9, *b.outputs[3][13:]]
    found = compare_results(a, b)
    assert found.texts == {"sql": [Difference(3, 12, 312, 9), Difference(7, 5, 705, None)]}
    assert found.remarks == [
        "sql: plain's text differs on 2 of 10 prompts; the first is prompt 3, at token 12 (312 in A, 9 in B)"
    ]


def test_a_truncated_list_of_texts_is_not_passed_over():
    a, b = sample_bench(), sample_bench()
    b.outputs.pop()
    found = compare_results(a, b)
    assert found.texts == {}
    assert found.remarks == [NOT_COMPARED]
    b.outputs = []
    assert compare_results(a, b).remarks == [NOT_COMPARED]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"device": "cuda: H100"}, "sql: device is cpu: Intel Xeon, 2 threads in A, cuda: H100 in B"),
        ({"precision": "4bit"}, "sql: precision is float32 in A, 4bit in B"),
        ({"threads": 1}, "sql: threads is 2 in A, 1 in B"),
        ({"rows": 9}, "sql: rows is 10 in A, 9 in B"),
        ({"baseline": "generate"}, "sql: baseline is plain in A, generate in B"),
        ({"adapter_sha256": "ab"}, "sql: adapter_sha256 is unknown in A, ab in B"),
        ({"tree": {**sample_bench().tree, "max_nodes": 32}}, "sql: tree.max_nodes is 16 in A, 32 in B"),
        ({"versions": {"ssft": "0.2.0"}}, "sql: versions.ssft is 0.1.0 in A, 0.2.0 in B"),
        ({"interrupted": True}, "sql: interrupted is False in A, True in B"),
    ],
)
def test_other_conditions_are_told(change, remark):
    assert remark in compare_results(sample_bench(), sample_bench(**change)).remarks


@pytest.mark.parametrize("key", ["baseline", "prompts_sha256", "precision", "batch_size"])
def test_speedups_of_other_things_are_not_compared(key):
    a, b = sample_bench(), sample_bench(**{key: 4 if key == "batch_size" else "other"})
    b.methods["streaming"].speedup, b.methods["streaming"].speedup_interval = 9.0, (8.0, 10.0)
    found = compare_results(a, b)
    assert {(entry.verdict, entry.ratio) for entry in found.methods} == {(INCOMPARABLE, None)}
    assert f"sql: speed-ups are not comparable because of {key}" in found.remarks
    b.precision, b.batch_size = "4bit", 2
    (line,) = (line for line in compare_results(a, b).remarks if "not comparable" in line)
    assert line.endswith("precision and batch_size")


def test_a_threads_change_still_compares():
    found = by_method(compare_results(sample_bench(), sample_bench(threads=1)))
    assert found["sql", "streaming"].verdict == UNCLEAR


@pytest.mark.parametrize("side", [0, 1])
def test_without_an_interval_nothing_is_clear(side):
    pair = [sample_bench(), sample_bench()]
    pair[1].methods["streaming"].speedup, pair[1].methods["streaming"].speedup_interval = 9.0, (8.0, 10.0)
    pair[side].methods["streaming"].speedup_interval = None
    assert by_method(compare_results(*pair))["sql", "streaming"].verdict == UNCLEAR


def test_texts_of_other_lengths_are_not_compared():
    a, b = sample_bench(), sample_bench(max_new_tokens=48)
    b.outputs = [output[:5] for output in b.outputs]
    found = compare_results(a, b)
    assert found.texts == {}
    assert found.remarks == [
        "sql: max_new_tokens is 96 in A, 48 in B",
        NOT_COMPARED,
    ]


def test_methods_and_tasks_of_one_side():
    a = sample_bench()
    b = sample_bench("sql", {name: SQL[name] for name in ("plain", "streaming")})
    found = by_method(compare_results(a, b))
    assert found["sql", "medusa"].verdict == ONLY_A
    assert found["sql", "medusa"].b is None
    assert by_method(compare_results(b, a))["sql", "medusa"].verdict == ONLY_B
    found = compare_results(a, sample_suite())
    assert {entry.task for entry in found.methods} == {"sql"}
    assert [line for line in found.remarks if "only" in line] == ["dialogsum: only in B", "e2e_nlg: only in B"]


def test_nothing_in_common():
    with pytest.raises(ConfigError, match="A measured sql, B other: no task in common"):
        compare_results(sample_bench(), sample_bench("other"))


def test_the_table():
    a, b = sample_suite(), sample_suite()
    streaming = b.tasks["sql"].bench.methods["streaming"]
    streaming.speedup, streaming.speedup_interval, streaming.tokens_per_call = 2.5, (2.3, 2.7), 4.0
    del b.tasks["sql"].bench.methods["assisted"]
    table = difference_table(compare_results(a, b))
    rows = {tuple(row[:2]): row[2:] for row in table.texts()}
    assert [column.name for column in table.head[2:6]] == ["verdict", "B / A", "speed-up A", "speed-up B"]
    assert rows["sql", "streaming"] == [
        *(FASTER, "1.32", "1.89× (1.68 – 2.10)", "2.50× (2.30 – 2.70)"),
        *("36.3", "36.3", "3.51", "4.00", "10", "10"),
    ]
    assert rows["sql", "assisted"][:4] == [ONLY_A, "–", "1.14× (1.04 – 1.24)", "–"]
    assert table.notes == []
