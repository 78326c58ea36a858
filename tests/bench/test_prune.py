"""`ssft bench prune`: every k with and without pruning beside plain decoding, and the picture of it."""

import json

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, random_prompts
from tiny_base import save_rows

from ssft.bench.prune import PruneComparison, PruneResult, compare_pruning, prune_sentence, prune_table
from ssft.bench.report.prune import prune_page
from ssft.cli.main import cli
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError
from ssft.runtime import loader

TOKENS = 10


def with_head():
    return fake_adapted(prune_head_rank=4)


def compared(adapted, **changes):
    how = {"prune_below": 0.0, "prune_keep": 4, "max_new_tokens": TOKENS, "batch_size": 2, "rounds": 2}
    return compare_pruning(adapted, random_prompts(3), [1, 4], **how | changes, progress=False)


@pytest.mark.parametrize("cut", [{"prune_keep": 4}, {"prune_keep": 0, "prune_below": 0.3}])
def test_every_k_runs_with_and_without_pruning_and_says_what_plain_decoding_says(cut):
    adapted = with_head()
    before = adapted.active.tree
    result = compared(adapted, **cut)
    assert adapted.active.tree is before
    assert "trees" not in vars(adapted.step)
    assert [(r.top_k, r.pruned) for r in result.results] == [(1, False), (1, True), (4, False), (4, True)]
    for r in result.results:
        assert r.identical == 3
        assert r.speedup > 0
        assert r.tokens_per_call >= 1
        assert r.left < r.nodes if r.pruned and r.top_k == 4 else r.left <= r.nodes
        assert r.pruned or r.left == r.nodes
    assert (result.tree.budget, result.tree.prunes, result.rounds) == ("fixed", False, 2)
    assert result.plain > 0


def made_up(pruned):
    points = [
        PruneResult(k, on, pruned if on else 2.0 / k, 3.0, 10.0, 9.0, 5.0, 3) for k in (1, 2) for on in (False, True)
    ]
    return PruneComparison(TreeConfig(), 0.1, 0, 3, 1, 20.0, points)


@pytest.mark.parametrize(("pruned", "verdict"), [(2.5, "Pruning pays here"), (1.5, "Pruning does not pay here")])
def test_the_sentence_and_the_table_say_who_is_faster(pruned, verdict):
    result = made_up(pruned)
    assert prune_sentence(result).startswith(f"{verdict}: at its best k=1")
    assert "k=1 2.00 times" in prune_sentence(result)
    assert prune_table(result).texts()[0][:3] == ["1", "no", "2.00×"]


def test_the_picture_has_both_lines_and_a_safe_title():
    page = prune_page(made_up(2.5), "<b>a name</b>")
    assert "&lt;b&gt;a name" in page
    assert page.count("<svg") == page.count("<table") == 1
    assert "with pruning" in page
    assert "tokens taken from each stream" in page


@pytest.mark.parametrize(
    ("adapted", "changes", "message"),
    [
        (fake_adapted, {}, "'tiny' has no prune head; train one with `ssft train RECIPE method=prune_head"),
        (with_head, {"prune_keep": 0}, "--prune-below 0 and --prune-keep 0 drop nothing"),
    ],
)
def test_what_cannot_be_pruned_is_refused(adapted, changes, message):
    with pytest.raises(ConfigError, match=message):
        compared(adapted(), **changes)


# --- the command ---


@pytest.fixture
def data(tmp_path):
    return save_rows(tmp_path / "rows.jsonl", [{"prompt": f"5 {i} 7"} for i in range(9, 12)])


def run(*args):
    options = ["--max-new-tokens", "8", "--rounds", "1", "--top-k", "2,4", "--prune-keep", "3"]
    return CliRunner().invoke(cli, ["bench", "prune", "any", *options, *map(str, args)])


def test_the_command_prints_json_or_a_table_and_draws_a_page(monkeypatch, data, tmp_path):
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: with_head())
    page = tmp_path / "prune.html"
    result = run("--data", data, "--json", "--output", page)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["rows"], facts["prune_keep"], facts["prune_below"]) == ("prune", 3, 3, 0.1)
    assert [entry["top_k"] for entry in facts["results"]] == [2, 2, 4, 4]
    assert page.read_text().startswith("<!doctype html>")
    text = run("--data", data).stdout
    assert "Speed-up over plain decoding by k" in text
    assert "Pruning" in text


@pytest.mark.parametrize("value", ["0", "1,x", "", "1.5"])
def test_a_wrong_k_is_refused(data, value):
    result = run("--data", data, "--top-k", value)
    assert result.exit_code == 2
    assert "write whole numbers from 1" in result.output


def test_thresholds_may_be_given_for_any_call():
    from ssft.cli._adapted import override_tree

    tree = override_tree(TreeConfig(), ["prune_below=0.25", "prune_keep=5"])
    assert (tree.prune_below, tree.prune_keep) == (0.25, 5)
    with pytest.raises(ConfigError, match=r"tree.prune_below=1.5, expected a number from 0, below 1"):
        override_tree(TreeConfig(), ["prune_below=1.5"])
