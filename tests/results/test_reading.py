"""A result is read back as it was written, and refused where it is damaged or of another version."""

import json
import re

import pytest
from sample_results import sample_bench, sample_suite

from ssft.errors import ConfigError
from ssft.files import to_json, write_json
from ssft.results.reading import read_comparison


@pytest.mark.parametrize("make", [sample_bench, sample_suite])
def test_what_is_written_is_read(tmp_path, make):
    result = make()
    write_json(tmp_path / "result.json", result)
    assert read_comparison(tmp_path / "result.json") == result


def test_a_file_that_is_cut_off_is_told(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, sample_suite())
    text = path.read_text()
    for length in (0, 1, len(text) // 2, len(text) - 3):
        path.write_text(text[:length])
        with pytest.raises(ConfigError, match=r"result\.json: no whole JSON .*cut off"):
            read_comparison(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no whole JSON"):
        read_comparison(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_comparison(tmp_path / "none.json")


@pytest.mark.parametrize("value", [[], 3, "tasks", {}, {"adapter": "sql"}, {"base": "x", "adapters": {}, "methods": 1}])
def test_a_foreign_file_is_told(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="no result that `ssft bench`"):
        read_comparison(path)


BENCH = ("tasks", "sql", "bench")
PLAIN = (*BENCH, "methods", "plain")
DIFFERENCE = {"row": 1, "position": 1, "expected": 2, "got": 3, "extra": 1}
ABSENT = object()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), 1, "format 1, this version of ssft reads format 2"),
        (("format",), None, "format None"),
        (("surprise",), 1, "surprise is unknown"),
        ((*PLAIN, "joules"), 1, "tasks['sql'].bench.methods['plain'].joules is unknown"),
        ((*PLAIN, "differences"), [DIFFERENCE], "methods['plain'].differences[0].extra is unknown"),
        ((*BENCH, "rows"), "10", "tasks['sql'].bench.rows='10', expected a count"),
        ((*BENCH, "rows"), True, "tasks['sql'].bench.rows=True, expected a count"),
        ((*PLAIN, "seconds"), None, "methods['plain'].seconds=None, expected float"),
        ((*PLAIN, "speedup_interval"), [1.0], "methods['plain'].speedup_interval=[1.0], expected tuple["),
        ((*PLAIN, "accepted"), {}, "methods['plain'].accepted={}, expected list[int]"),
        ((*PLAIN, "accepted"), [1, 1.5], "methods['plain'].accepted[1]=1.5, expected int"),
        (BENCH, [], "\"tasks['sql'].bench\" is missing or no object"),
        (("created",), ABSENT, "created is missing"),
        ((*BENCH, "methods"), ABSENT, "tasks['sql'].bench.methods is missing"),
        ((*PLAIN, "kind"), ABSENT, "tasks['sql'].bench.methods['plain'].kind is missing"),
    ],
)
def test_a_place_that_does_not_fit_is_named(tmp_path, place, value, message):
    path = tmp_path / "result.json"
    facts = to_json(sample_suite())
    entry = facts
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    if value is ABSENT:
        del entry[place[-1]]
    path.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_comparison(path)


@pytest.mark.parametrize("value", [1, None, "2"])
def test_the_format_of_one_comparison_is_checked_too(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**to_json(sample_bench()), "format": value}))
    with pytest.raises(ConfigError, match=re.escape(f"format {value!r}, this version of ssft reads format 2")):
        read_comparison(path)


def test_whole_numbers_stand_for_fractions_and_absence_for_the_default(tmp_path):
    path = tmp_path / "result.json"
    facts = to_json(sample_bench())
    facts["methods"]["plain"]["seconds"] = 17
    del facts["outputs"]
    path.write_text(json.dumps(facts))
    result = read_comparison(path)
    assert isinstance(result.methods["plain"].seconds, float)
    assert (result.methods["plain"].seconds, result.outputs) == (17, [])


def test_a_result_of_another_command_is_no_comparison(tmp_path):
    facts = {"adapter": "a", "adapter_sha256": "0", "data": None, "device": "cpu", "precision": "float32", "tree": {}}
    counts = dict.fromkeys(("rows", "tokens", "calls", "batch_size", "max_new_tokens", "identical"), 1)
    write_json(tmp_path / "verify.json", {"kind": "verify", "command": "x", "against": "plain", **facts, **counts})
    with pytest.raises(ConfigError, match="no comparison of methods"):
        read_comparison(tmp_path / "verify.json")
