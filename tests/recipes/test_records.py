"""Files as people have them: JSON arrays, CSV, parquet, folders, and what is told where one cannot be read."""

import gzip
import json

import pytest
from datasets import Dataset

from ssft.errors import DataError
from ssft.recipes.config import DataConfig
from ssft.recipes.data import load_row_pair
from ssft.recipes.records import records

ROWS = [{"text": "one\ntwo", "label": 'a "b", c'}, {"text": "three", "label": "d"}]


def values(path):
    return [value for _, value in records(path)]


def places(path):
    return [where.removeprefix(f"{path}, ") for where, _ in records(path)]


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array(tmp_path, name, indent):
    path = write(tmp_path / name, "\n " + json.dumps(ROWS, indent=indent) + "\n")
    assert values(path) == ROWS
    assert places(path) == (["line 2", "line 2"] if indent is None else ["line 3", "line 7"])


def test_an_empty_array_has_no_items(tmp_path):
    assert values(write(tmp_path / "rows.json", "[ ]")) == []


def test_json_may_be_lines_too(tmp_path):
    assert values(write(tmp_path / "rows.json", "\n".join(map(json.dumps, ROWS)))) == ROWS


@pytest.mark.parametrize(("separator", "end"), [(",", "\n"), (";", "\r\n"), ("\t", "\n")])
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_csv_file(tmp_path, name, separator, end):
    quoted = [[f'"{value}"' for value in (row["text"], row["label"].replace('"', '""'))] for row in ROWS]
    lines = [separator.join(cells) for cells in [["text", " label"], *quoted]]
    path = write(tmp_path / name, end.join(lines) + end)
    assert values(path) == ROWS
    assert places(path) == ["line 2", "line 4"]


def test_csv_values_stay_text(tmp_path):
    assert values(write(tmp_path / "rows.csv", "a,b\n007,\n\n1.0,true\n")) == [
        {"a": "007", "b": ""},
        {"a": "1.0", "b": "true"},
    ]


def test_parquet(tmp_path):
    Dataset.from_list(ROWS).to_parquet(str(tmp_path / "rows.parquet"))
    assert values(tmp_path / "rows.parquet") == ROWS
    assert places(tmp_path / "rows.parquet") == ["row 1", "row 2"]


def test_a_folder_is_all_its_data_files(tmp_path):
    write(tmp_path / "b.csv", "text,label\nthree,d\n")
    write(tmp_path / "a.jsonl", json.dumps(ROWS[0]))
    for name in ("README.md", ".hidden.jsonl"):
        write(tmp_path / name, "no rows")
    assert values(tmp_path) == ROWS
    assert [where for where, _ in records(tmp_path)][1] == f"{tmp_path / 'b.csv'}, line 2"


def test_a_folder_that_holds_test_rows_is_not_trained_on_whole(tmp_path):
    for name in ("train.csv", "test.csv"):
        write(tmp_path / name, "text,label\n")
    with pytest.raises(
        DataError, match=r"holds test\.csv beside train\.csv.*data\.train=.*train\.csv data\.validation="
    ):
        values(tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800"])
def test_a_name_that_no_file_has(name):
    with pytest.raises(DataError, match="no such file; give a file"):
        load_row_pair(DataConfig(train=name), seed=0)


def test_a_folder_without_data(tmp_path):
    write(tmp_path / "notes.txt", "")
    with pytest.raises(
        DataError, match=r"the folder has no data file; put \.jsonl, \.json, \.csv, \.tsv, \.parquet files"
    ):
        values(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.json", '[{"a": 1},\n{"a" 2}]', r"line 2: invalid JSON at column 6 .*an array of complete"),
        ("rows.json", '[{"a": 1},\n]', r"line 2: invalid JSON at column 1"),
        ("rows.json", '[{"a": 1}\n{"a": 2}]', "after the item of line 1 stands neither ',' nor the ']'"),
        ("rows.json", '[{"a": 1}', "after the item of line 1 stands neither ',' nor .* is it cut off"),
        ("rows.json", '[{"a": 1}] []', "after the item of line 1"),
        ("rows.jsonl", '{"a": 1}\n{"a": 1, "a": 2}', "line 2: key 'a' stands twice"),
        ("rows.jsonl", '{"a": ' + "9" * 6000 + "}", "line 1: a number of 6,000 digits"),
        ("rows.jsonl", "[" * 200_000, "line 1: brackets stand too deep"),
        ("rows.jsonl", '{"a": "\\ud800"}', r"line 1: \\ud800 is half a surrogate pair"),
        ("rows.json", '[{"a": 1},\n{"a": 1, "a": 2}]', "line 2: key 'a' stands twice"),
        ("rows.json", '[{"a": ' + "9" * 6000 + "}]", "line 1: a number of 6,000 digits"),
        ("rows.csv", "", "line 1: the first line must name every column once, got ''"),
        ("rows.csv", "a,a\n1,2\n", "line 1: the first line must name every column once, got 'a,a'"),
        ("rows.csv", "a,b\n1,2\n3,4,5\n", "line 3: 3 values for the 2 columns a, b; put a value that holds ','"),
        ("rows.csv", 'a,b\n1,"2\n', "line 2: no valid CSV"),
        ("rows.parquet", "no parquet", "rows.parquet cannot be read as parquet"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        values(write(tmp_path / name, text))
