"""`ssft tune`: a replay counts the very passes that decoding takes, and the command shows what it found."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted, random_prompts
from tiny_base import save_rows

from ssft.bench.report.tuning import tuning_page
from ssft.bench.tuning import record, tune, tuning_sentence, tuning_tables
from ssft.cli.main import cli
from ssft.decoding.budget.replay import replay
from ssft.decoding.budget.tuned import TunedBudget
from ssft.errors import ConfigError
from ssft.runtime import loader
from ssft.runtime.batching import length_batches

TOKENS = 14


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("tree", [{"max_nodes": 4}, {}, {"max_stream_nodes": 1}, {"kind": "k_ary", "max_depth": 2}])
def test_a_replay_takes_the_passes_that_decoding_takes(tree, batch_size):
    adapted = fake_adapted(eos=(5, 9))
    prompts = random_prompts(5)
    traces = record(adapted, prompts, TOKENS, batch_size, progress=False)
    assert adapted.active.tree.max_nodes == 48, "recording changed the adapter's tree"
    own = adapted.active.tree = replace(adapted.active.tree, **tree)
    batches = [[traces[i] for i in batch] for batch in length_batches([len(p) for p in prompts], batch_size)]
    found = replay(batches, own, TunedBudget(adapted.costs))
    results = adapted.complete(prompts, max_new_tokens=TOKENS, batch_size=batch_size)
    assert [trace.tokens for trace in traces] == [result.token_ids for result in results]
    decoded = [[results[i] for i in batch] for batch in length_batches([len(p) for p in prompts], batch_size)]
    assert found.passes == sum(max(result.calls for result in batch) - 1 for batch in decoded)
    assert found.tokens == sum(len(result.token_ids) - 1 for result in results)
    plain = replay(batches, None, TunedBudget(adapted.costs))
    assert plain.passes == sum(max(len(result.token_ids) for result in batch) - 1 for batch in decoded)
    assert set(plain.shapes) == {(1, 0)}


def test_every_budget_is_tried_within_the_limits_and_compared_with_plain():
    adapted = fake_adapted()
    adapted.active.tree = replace(adapted.active.tree, max_nodes=6, max_stream_nodes=2)
    result = tune(adapted, random_prompts(3), TOKENS, batch_size=2, progress=False)
    assert sorted(result.costs) == [1, 2]
    shapes = [(2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2), (6, 1), (6, 2)]
    assert [(budget.nodes, budget.sources) for budget in result.fixed] == shapes
    assert result.tokens == 3 * (TOKENS - 1)
    for budget in (*result.fixed, result.tuned):
        assert budget.tokens_per_second == pytest.approx(1e3 * budget.tokens_per_pass / budget.milliseconds_per_pass)
        assert budget.speedup == pytest.approx(budget.tokens_per_second / result.plain)
        assert 0 < sum(share for *_, share in budget.shapes) <= 1 + 1e-9
    assert all(n <= 6 and m <= 2 for n, m, _ in result.tuned.shapes)
    titles = [table.title for table in tuning_tables(result)]
    assert titles[:2] == ["Cost of a pass over 1 row, ms", "Cost of a pass over 2 rows, ms"]
    assert f"max_nodes={result.best.nodes}" in tuning_sentence(result)
    page = tuning_page(result, "<b>a name</b>")
    assert "&lt;b&gt;a name" in page
    assert page.count("<table") == 4
    assert "<svg" in page
    assert "budget=auto" in page


def test_answers_of_one_token_are_refused():
    with pytest.raises(ConfigError, match=r"no answer has more than one token.*give other prompts"):
        tune(fake_adapted(), random_prompts(2), 1, progress=False)


# --- the command ---


@pytest.fixture
def data(tmp_path):
    return save_rows(tmp_path / "rows.jsonl", [{"prompt": f"5 {i} 7"} for i in range(9, 12)])


def run(*args):
    return CliRunner().invoke(cli, ["tune", "any", *map(str, args), "--max-new-tokens", "8"])


def test_the_command_prints_json_or_tables_and_draws_a_page(monkeypatch, data, tmp_path):
    adapted = fake_adapted()
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    page = tmp_path / "tune.html"
    options = ["--data", data, "--tree", "max_nodes=4", "--tree", "budget=auto"]
    result = run(*options, "--json", "--output", page)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["rows"], facts["tree"]["budget"]) == ("tune", 3, "auto")
    assert {"costs", "plain", "fixed", "tuned"} <= set(facts)
    assert page.read_text().startswith("<!doctype html>")
    text = run(*options).stdout
    assert "Expected tokens per second of fixed budgets" in text
    assert "Plain decoding:" in text


def test_an_adapter_without_streams_is_refused(monkeypatch, data):
    adapted = fake_adapted(streams=False)
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: adapted)
    result = run("--data", data)
    assert result.exit_code == 2
    assert "has no streams, so there is no budget to choose" in result.output


def test_another_budget_is_refused(data):
    result = run("--data", data, "--tree", "budget=some")
    assert "expected one of fixed, auto" in result.output
