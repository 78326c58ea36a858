"""JSON is compared field by field, and as a whole, with the best reference; what is no JSON scores nothing."""

import pytest

from ssft.bench.metrics import json as json_metric

ORDER = '{"city": "Rome", "n": 1, "to": {"a": [1, 2]}, "now": true}'


@pytest.mark.parametrize(
    ("text", "valid", "fields", "same"),
    [
        (ORDER, 100, 100, 100),
        (' {"now":true,"to":{"a":[1,2.0]},"n":1.0,"city":"Rome"}\n', 100, 100, 100),
        (ORDER[:-1] + ', "more": null}', 100, 100, 0),
        ('{"city": "Rome", "n": true, "to": {"a": [2, 1]}, "now": 1}', 100, 25, 0),
        ('{"city": "Rome"}', 100, 25, 0),
        ("[1, 2]", 100, 0, 0),
        (ORDER[:-1], 0, 0, 0),
        (f"Here: {ORDER}", 0, 0, 0),
        ('{"n": NaN}', 0, 0, 0),
        ('{"n": ' + "9" * 6000 + "}", 0, 0, 0),
        ("[" * 200_000, 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_json_by_field(text, valid, fields, same):
    expected = {"valid_json": valid, "field_match": fields, "object_match": same}
    assert json_metric.score(text, [ORDER]) == expected
    assert json_metric.score(text, ['{"other": 1}', ORDER]) == expected  # the best reference


def test_json_without_fields_is_right_as_a_whole():
    assert json_metric.score("{}", ["{}"])["field_match"] == 100
    assert json_metric.score('{"a": 1}', ["{}"])["field_match"] == 0
    assert json_metric.score("x", ["{}"])["field_match"] == 0
