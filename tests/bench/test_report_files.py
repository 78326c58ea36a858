"""A result as files: written whole, read back as it was, refused where it is damaged or of another version."""

import json
import re

import pytest
from sample_results import sample_bench, sample_suite

from ssft.bench import html
from ssft.bench.reading import read_result
from ssft.bench.report import REPORT_FILES, write_report
from ssft.errors import ConfigError
from ssft.files import check_target, to_json, write_json


@pytest.mark.parametrize("make", [sample_bench, sample_suite])
def test_what_is_written_is_read(tmp_path, make):
    result = make()
    write_json(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result


def test_a_file_that_is_cut_off_is_told(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, sample_suite())
    text = path.read_text()
    for length in (0, 1, len(text) // 2, len(text) - 3):
        path.write_text(text[:length])
        with pytest.raises(ConfigError, match=r"result\.json: no whole JSON .*cut off"):
            read_result(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no whole JSON"):
        read_result(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize("value", [[], 3, "tasks", {}, {"adapter": "sql"}, {"base": "x", "adapters": {}, "methods": 1}])
def test_a_foreign_file_is_told(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="no result of a comparison"):
        read_result(path)


BENCH = ("tasks", "sql", "bench")
PLAIN = (*BENCH, "methods", "plain")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), 2, "format 2, this version of ssft reads format 1"),
        (("format",), None, "format None"),
        (("surprise",), 1, "key `surprise` is unknown"),
        ((*PLAIN, "joules"), 1, "key `tasks.sql.bench.methods.plain.joules` is unknown"),
        ((*BENCH, "rows"), "10", "`tasks.sql.bench.rows` is str, expected int"),
        ((*BENCH, "rows"), True, "`tasks.sql.bench.rows` is bool, expected int"),
        ((*PLAIN, "seconds"), None, "`tasks.sql.bench.methods.plain.seconds` is NoneType, expected float"),
        ((*PLAIN, "speedup_interval"), [1.0], "plain.speedup_interval` has 1 values, expected 2"),
        ((*PLAIN, "accepted"), {}, "plain.accepted` is dict, expected list"),
        ((*PLAIN, "accepted"), [1, 1.5], "plain.accepted.1` is float, expected int"),
        (BENCH, [], "`tasks.sql.bench` is list, expected dict"),
    ],
)
def test_a_place_that_does_not_fit_is_named(tmp_path, place, value, message):
    path = tmp_path / "result.json"
    facts = to_json(sample_suite())
    entry = facts
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_result(path)


@pytest.mark.parametrize("value", [2, None, "1"])
def test_the_format_of_one_comparison_is_checked_too(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**to_json(sample_bench()), "format": value}))
    with pytest.raises(ConfigError, match=re.escape(f"format {value!r}, this version of ssft reads format 1")):
        read_result(path)


@pytest.mark.parametrize("place", [("created",), (*BENCH, "methods"), (*PLAIN, "kind")])
def test_a_missing_key_is_named(tmp_path, place):
    path = tmp_path / "result.json"
    facts = to_json(sample_suite())
    entry = facts
    for key in place[:-1]:
        entry = entry[key]
    del entry[place[-1]]
    path.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=f"key `{re.escape('.'.join(place))}` is missing"):
        read_result(path)


def test_whole_numbers_stand_for_fractions_and_absence_for_the_default(tmp_path):
    path = tmp_path / "result.json"
    facts = to_json(sample_bench())
    facts["methods"]["plain"]["seconds"] = 17
    del facts["outputs"]
    path.write_text(json.dumps(facts))
    result = read_result(path)
    assert isinstance(result.methods["plain"].seconds, float)
    assert (result.methods["plain"].seconds, result.outputs) == (17, [])


def test_the_report_is_three_files_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "report"
    written = write_report(sample_suite(), folder)
    assert [path.name for path in written] == list(REPORT_FILES)
    assert sorted(folder.iterdir()) == sorted(written)
    assert read_result(folder / "report.json") == sample_suite()
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_without_a_finished_task_has_no_picture(tmp_path):
    result = sample_suite()
    result.tasks, result.interrupted = {}, True
    assert [path.name for path in write_report(result, tmp_path)] == list(REPORT_FILES[:2])
    assert "No task was finished" in (tmp_path / "report.html").read_text()
    # An older run's picture would show numbers that the new JSON does not have; other files are the user's.
    (tmp_path / "report.png").write_bytes(b"older")
    (tmp_path / "other.png").write_bytes(b"own")
    write_report(result, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.png", *REPORT_FILES[1::-1]]


def test_the_numbers_are_safe_before_the_page_is_made(tmp_path, monkeypatch):
    def fail(result):
        raise RuntimeError("no page")

    monkeypatch.setattr(html, "html_report", fail)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(sample_suite(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_report_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="folder cannot be made"):
        write_report(sample_suite(), tmp_path / "file")
    assert check_target(tmp_path / "new" / "result.json") is None
