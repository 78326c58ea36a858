"""One reader from the values of JSON and YAML to annotations; types are strict, and a fault names its place."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ssft.schema import is_hub_id, read, type_name


class Shape(str, Enum):
    CHAIN = "chain"
    TREE = "tree"


@dataclass
class Row:
    name: str
    count: int = 0


@dataclass
class Table:
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    first: Row | None = None


@pytest.mark.parametrize(
    ("hint", "value", "found"),
    [
        (float, 5, 5.0),
        (int | float, 5, 5),
        (float | None, None, None),
        (Shape | str, "tree", "tree"),
        (Literal["gaussian", "steps_[number]"], "steps_4", "steps_4"),
        (tuple[float, float], [0.9, 1], (0.9, 1.0)),
        (list[str] | str, ["a"], ["a"]),
        (dict[str, Any], {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        (int, 10**400, 10**400),
        (object | None, None, None),
    ],
)
def test_what_fits_is_read(hint, value, found):
    result = read(hint, value, "key")
    assert (result, type(result)) == (found, type(found))


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, "5", "key='5', expected int"),
        (int, True, "key=True, expected int"),
        (int, 5.0, "key=5.0, expected int"),
        (float, True, "key=True, expected float"),
        (bool, 1, "key=1, expected bool"),
        (str, 3, "key=3, expected str"),
        (str, "\ud800", "expected str"),
        (Literal[True, "x"], 1, r"key=1, expected True \| 'x'"),
        (Shape | str, "ring", r"key='ring', expected 'chain' \| 'tree'"),
        (tuple[float, float], [0.9], r"expected tuple\[float, float\]"),
        (list[int], [1, "2"], r"key\[1\]='2', expected int"),
        (dict[str, Row], {"a": {"name": "b"}, "c": {"name": 5}}, r"key\['c'\]\.name=5, expected str"),
        (Row | None, {"name": None}, r"key\.name=None, expected str"),
        (Annotated[list[Row], Field(max_length=1)], [{"name": "a"}] * 2, r"key=\[.*, expected list"),
        (Annotated[list[Row], Field(max_length=1)], [{"name": 5}], r"key\[0\]\.name=5, expected str"),
        (Row | None, 3, "'key' is missing or no object"),
        (Annotated[int, Field(gt=0), "a count"], 0, "key=0, expected a count"),
        (dict[str, Annotated[int, Field(gt=0), "a count"]] | None, {"\x1b": 0}, r"key\['\\x1b'\]=0, expected a count"),
        (object, 3, "key=3, expected object"),
        (str, ["y" * 999], r"key=\['y{75}\.\.\., expected str"),
        (Row, None, "'key' is missing or no object"),
        (Row, {"name": "a", "coutn": 1}, r"key\.coutn is unknown to this version of ssft; did you mean 'count'\?"),
        (Row, {"name": "a", "\x1b[2J": 1}, r"key\.'\\x1b\[2J' is unknown"),
        (Row, {"count": 1}, r"key\.name is missing"),
        (Table, {"rows": [{"name": "a"}, {"name": "b", "count": "1"}]}, r"key\.rows\[1\]\.count='1', expected int"),
        (Table, {"rows": {"name": "a"}}, r"key\.rows=\{'name': 'a'\}, expected list\[Row\]"),
    ],
)
def test_a_fault_names_its_place(hint, value, message):
    with pytest.raises(ValueError, match=message):
        read(hint, value, "key")


def test_dataclasses_are_read_to_their_depth():
    value = {"title": "t", "rows": [{"name": "a", "count": 2}], "first": {"name": "b"}}
    assert read(Table, value, "") == Table("t", [Row("a", 2)], Row("b"))
    assert read(dict[str, Table], {"x": {**value, "first": None}}, "") == {"x": Table("t", [Row("a", 2)])}
    with pytest.raises(ValueError, match=r"^\['x'\]\.rows\[0\]\.name=1, expected str"):
        read(dict[str, Table], {"x": {"rows": [{"name": 1}]}}, "")


def test_annotations_as_text():
    assert type_name(int | None) == "int | none"
    assert type_name(Shape | str) == "'chain' | 'tree'"


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        *(("owner/name", True), ("a/b-1.5B_x", True), ("HuggingFaceTB/SmolLM2-135M-Instruct", True)),
        *(("name", False), ("./owner/name", False), ("a/b/c", False), ("owner/", False), ("/name", False)),
        *(("../name", False), ("owner/name:part", False), ("öwner/name", False), ("owner/name\n", False)),
    ],
)
def test_an_id_of_the_hub_is_owner_and_name(text, is_id):
    assert is_hub_id(text) is is_id
