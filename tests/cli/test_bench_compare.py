"""`ssft bench --compare`: two results side by side, the exit code, and files that are no results."""

import json

import pytest
from click.testing import CliRunner
from sample_results import sample_bench

from ssft.cli.main import cli
from ssft.files import write_json


def run(*args):
    return CliRunner().invoke(cli, ["bench", *map(str, args)])


@pytest.fixture
def two_results(tmp_path):
    """Two results in files, the second's first text another."""
    one, other = sample_bench(), sample_bench()
    other.outputs[3][1] += 1
    other.threads = 4
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, result in zip(paths, (one, other), strict=True):
        write_json(path, result)
    return paths


def test_compare_says_what_differs_and_fails_where_texts_do(two_results):
    one, other = two_results
    result = run("--compare", one, one)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "no clear change" in result.stdout
    assert "texts" not in result.stdout
    result = run("--compare", one, other)
    assert result.exit_code == 1, (result.output, result.exception)
    assert "sql: threads is 2 in A, 4 in B" in result.stdout
    assert "plain's text differs on 1 of 10 prompts; the first is prompt 3, at token 1" in result.stdout
    result = run("--json", "--compare", one, other)
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert (facts["a"], facts["b"], facts["texts_differ"]) == ("a.json", "b.json", True)
    assert facts["texts"]["sql"][0]["row"] == 3
    assert {entry["verdict"] for entry in facts["methods"]} == {"no clear change"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "b.json: no whole JSON"),
        (lambda _: "[]", "b.json: no result that"),
        (lambda text: text.replace('"sql"', '"other"'), "A measured sql, B other: no task in common"),
    ],
)
def test_compare_of_a_file_that_is_no_result_is_wrong_input(two_results, spoil, message):
    one, other = two_results
    other.write_text(spoil(other.read_text()))
    result = run("--compare", one, other)
    assert result.exit_code == 2, (result.output, result.exception)
    assert message in result.stderr
    assert run("--compare", one).exit_code == run("--compare", one, "nowhere.json").exit_code == 2


def test_names_from_a_file_do_not_act_on_the_terminal(two_results):
    one, _ = two_results
    one.write_text(one.read_text().replace('"sql"', '"\\u001b[31msql"').replace('"medusa"', '"\\u001b]0;title"'))
    result = run("--compare", one, one)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "\x1b" not in result.stdout
    assert r"\x1b[31msql" in result.stdout
    assert r"\x1b]0;title" in result.stdout
