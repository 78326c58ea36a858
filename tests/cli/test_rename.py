"""`ssft rename`: what is written and told, and wrong input."""

import json
import re

import pytest
from click.testing import CliRunner
from tiny_base import save_rows

from ssft.cli.main import cli
from ssft.recipes.data import load_rows

ROWS = [
    {"prompt": "Tell of Ada now.", "completion": "Ada it is", "category": "people"},
    {"prompt": "Tell of Bo then.", "completion": "Bo it was"},
    {"prompt": "Tell nothing.", "completion": "Nothing"},
]


@pytest.fixture
def run(tmp_path):
    save_rows(tmp_path / "rows.jsonl", ROWS)

    def run(*arguments):
        line = ["rename", "--data", tmp_path / "rows.jsonl", *arguments]
        return CliRunner().invoke(cli, list(map(str, line)), catch_exceptions=False)

    return run


def test_rows_are_written_and_counted(run, tmp_path):
    target = tmp_path / "new.jsonl"
    result = run("--output", target)
    new = load_rows(target)
    assert new[2] == ROWS[2]
    assert new[0]["category"] == "people"
    name = re.fullmatch(r"(\w+) it is", new[0]["completion"])[1]
    assert name != "Ada"
    assert new[0]["prompt"] == f"Tell of {name} now."
    assert "2 of 3 rows have made-up names or numbers" in result.output
    assert f"row 1, before: Ada it is\nrow 1, after: {name} it is\n" in result.output
    facts = json.loads(run("--output", target, "--json").stdout)
    assert (facts["rows"], facts["renamed"], facts["seed"], facts["output"]) == (3, 2, 0, "new.jsonl")
    assert load_rows(target) == new
    run("--output", target, "--seed", "1")
    assert load_rows(target) != new


def test_names_are_unlike_those_of_other_rows(run, tmp_path):
    target, other = tmp_path / "new.jsonl", tmp_path / "train.jsonl"
    run("--output", target)
    name = load_rows(target)[0]["completion"].split()[0]
    save_rows(other, [{"prompt": f"who is {name}", "completion": "x"}])
    facts = json.loads(run("--output", target, "--unlike", other, "--json").stdout)
    assert facts["unlike"][0]["name"] == "train.jsonl"
    assert name not in load_rows(target)[0]["prompt"]


def test_rows_need_a_file_to_be_written_to(run):
    result = run()
    assert result.exit_code == 2
    assert "Missing option '--output'" in result.output


def test_rows_without_a_form_are_wrong_input(run, tmp_path):
    save_rows(tmp_path / "rows.jsonl", [{"question": "who?"}])
    result = run("--output", tmp_path / "new.jsonl")
    assert result.exit_code == 2
    assert "rows.jsonl, line 1: the columns are question" in result.output
    assert not (tmp_path / "new.jsonl").exists()
