"""Texts are scored against their references by the metric that was named or that suits, and rows are summarised."""

import pytest
from exact_match import exact_match

from ssft.bench.metrics import choose_metric, metric_module, metric_names, sql
from ssft.bench.metrics.rouge import TYPES
from ssft.bench.quality import row_references, score_texts, summarise
from ssft.bench.statistics import mean_interval
from ssft.errors import DataError

QUERY = "SELECT a, COUNT(b) FROM t WHERE x = 'Red Wine' AND y > 3 AND z LIKE '%k' GROUP BY a"


def test_every_file_is_a_metric():
    assert metric_names() == ["exact", "json", "rouge", "sql"]
    for name in metric_names():
        module = metric_module(name)
        assert (module.NAME, bool(module.DESCRIPTION)) == (name, True)
        assert module.fits([["a"]]) in (True, False)
        values = module.score("a b", ["a b"])
        assert all(0 <= value <= 100 for value in values.values())


def test_exact_match_strips_both_sides_and_takes_any_reference():
    assert exact_match(" a b\n", ["c", "\ta b "])
    assert not exact_match("a  b", ["a b"])
    assert not exact_match("A b", ["a b"])
    assert not exact_match("", ["a"])


def test_score_texts_gives_the_metrics_asked_for():
    texts, references = ["select A", "a"], [["SELECT a"], ["c", "a"]]
    rows = score_texts(texts, references, "sql", progress=False)
    assert rows[0] == {"exact_match": 0, "normalised_match": 100}
    assert score_texts(texts, references, "exact", progress=False) == [{"exact_match": 0}, {"exact_match": 100}]
    assert [list(row) for row in score_texts(texts, references, "rouge", progress=False)] == [list(TYPES)] * 2


def test_auto_takes_rouge_for_several_references():
    assert choose_metric("auto", [["a"], ["b", "c"]]) == "rouge"
    assert choose_metric("auto", [["a b c"], ["b"]]) == "exact"
    assert choose_metric("exact", [["a", "b"]]) == "exact"
    assert choose_metric("rouge", [["a"]]) == "rouge"


def test_auto_takes_json_for_objects_alone():
    assert choose_metric("auto", [['{"a": 1}', "{}"], ['{"b": [2]}']]) == "json"
    assert choose_metric("auto", [["3"], ["true"]]) == "exact"
    with pytest.raises(DataError, match="metric json needs references that are JSON objects, and some are not"):
        choose_metric("json", [['{"a": 1}'], ["[1]"]])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "completion": "a"}, ["a"]),
        ({"prompt": "p", "completion": "a", "references": ["b", "c"]}, ["b", "c"]),
        ({"prompt": "p", "references": ["b"]}, ["b"]),
        ({"prompt": "p", "completion": "a", "references": []}, ["a"]),
        ({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, ["a"]),
    ],
)
def test_references_count_before_the_completion(row, expected):
    assert row_references(row, "row 1") == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "row 7: neither `completion` nor `references`"),
        ({"prompt": "p", "references": []}, "row 7: neither `completion` nor `references`"),
        ({"messages": [{"role": "user", "content": "u"}]}, "row 7: neither `completion` nor `references`"),
        ({"prompt": "p", "references": ["a", " "]}, "row 7: reference 2 is empty"),
    ],
)
def test_a_row_without_references_is_named(row, message):
    with pytest.raises(DataError, match=message):
        row_references(row, "row 7")


def test_summarise():
    rows = [sql.score(text, [QUERY]) for text in [QUERY, QUERY.lower(), "", f"{QUERY};"]]
    metrics, intervals = summarise(rows)
    # The second is in lower case within its quotes too.
    assert metrics == {"exact_match": 25, "normalised_match": 50}
    assert all(low <= metrics[name] <= high for name, (low, high) in intervals.items())
    assert intervals["exact_match"] == mean_interval([100, 0, 0, 0])
