"""JSON: whether the text is JSON at all, how many of the expected fields it has right, and whether it is the same."""

import json
from collections.abc import Sequence
from typing import Any

NAME = "json"
DESCRIPTION = "the text is valid JSON, the share of the expected object's fields with equal values, and the same object"
NEEDS = "JSON objects"


def fits(references: Sequence[Sequence[str]]) -> bool:
    """Whether all references are JSON objects."""
    return all(isinstance(_value(reference), dict) for row in references for reference in row)


def score(text: str, references: Sequence[str]) -> dict[str, float]:
    """valid_json, field_match and object_match; of several references the best one counts.

    A field is a key of the expected object, and its value, however deep, is right as a whole or not at all. The order
    of keys, white space, and 1 or 1.0 make no difference; true is not 1. Fields that the text has beyond the expected
    ones leave field_match as it is and make another object. A text with words around its JSON is not valid.
    """
    found, expected = _value(text), [_value(reference) for reference in references]
    return {
        "valid_json": 100.0 * (found is not _INVALID),
        "field_match": 100.0 * max(_share(found, value) for value in expected),
        "object_match": 100.0 * any(_same(found, value) for value in expected),
    }


_INVALID = object()


def _value(text: str) -> Any:
    """The value of a JSON text; `_INVALID` for any other text."""
    try:
        return json.loads(text, parse_float=_number, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _INVALID


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _share(found: Any, expected: Any) -> float:
    """Of the expected fields those that are found with an equal value; what has none is right as a whole or not."""
    if not isinstance(found, dict) or not isinstance(expected, dict) or not expected:
        return float(_same(found, expected))
    return sum(key in found and _same(found[key], value) for key, value in expected.items()) / len(expected)


def _same(left: Any, right: Any) -> bool:
    """Whether two values are the same JSON; Python's own == takes true for 1."""
    if left is _INVALID or right is _INVALID:
        return False
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
