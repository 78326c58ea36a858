"""`ssft card`: from real result files of a tiny adapter to its README.md, and wrong input."""

import json
import shutil

import pytest
from adapter_folders import peft_folder
from click.testing import CliRunner
from conftest import tiny_llama
from fake_adapted import save_bundle
from huggingface_hub import ModelCard
from result_files import eval_facts, save, verify_facts
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bench.metrics.rouge import TYPES as ROUGE_TYPES
from ssft.bundle.format import CARD, CURVE, RESULTS
from ssft.bundle.read import read_bundle
from ssft.card.write import write_card
from ssft.cli.main import cli

SPEED = ["--dtype", "float32", "--max-new-tokens", "12"]


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """A folder with `base`, `adapter`, `rows.jsonl` and the results verify.json, bench.json, eval.json."""
    root = tmp_path_factory.mktemp("card")
    base = save_tiny_base(root / "base")
    save_bundle(root / "adapter", base)
    data = save_rows(root / "rows.jsonl", rows(3))
    common = [root / "adapter", "--base", base, "--data", data, *SPEED]
    for name, *arguments in (
        ("verify", "--output", root / "verify.json"),
        ("bench", "--rounds", "1", "--methods", "plain,streaming", "--output", root / "bench.json"),
        ("eval", "--facts", root / "eval.json"),
    ):
        done = invoke(name, *common, *arguments)
        assert done.exit_code == 0, done.output
    return root


@pytest.fixture
def place(master, tmp_path, monkeypatch):
    shutil.copytree(master, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(cli, list(map(str, args)))


def card(*args):
    result = invoke("card", "adapter", *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(message, *args):
    before = {path.name: path.read_bytes() for path in read_bundle("adapter").path.iterdir()}
    result = invoke("card", "adapter", *args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert {path.name: path.read_bytes() for path in read_bundle("adapter").path.iterdir()} == before


def test_results_of_all_commands_reach_the_card(place):
    facts = card("verify.json", "bench.json", "eval.json")
    assert (facts["path"], facts["changed"]) == (f"adapter/{CARD}", True)
    assert [(row["source"], row["method"]) for row in facts["speed"]] == [
        ("verify", "streaming"),
        ("bench", "plain"),
        ("bench", "streaming"),
        ("eval", "streaming"),
    ]
    assert [(row["source"], row["metric"]) for row in facts["quality"]] == [("eval", name) for name in ROUGE_TYPES]
    verified = json.loads((place / "verify.json").read_text())
    assert facts["speed"][0]["calls"] == verified["calls"]
    assert facts["speed"][0]["data"] == "rows.jsonl"
    text = (place / "adapter" / CARD).read_text()
    assert "| 3 of 3 (plain) |" in text
    found = {e.metric_type: e.metric_value for e in ModelCard(text).data.eval_results}
    assert found["identical_outputs"] == 100
    assert {"tokens_per_call", "speedup", "rouge"} <= set(found)


def test_results_and_licences_stay_for_the_next_card(place):
    card("verify.json", "--license", "cc-by-4.0", "--dataset", "a/b", "--dataset", "c", "--data-license", "CC BY 4.0")
    first = (place / "adapter" / CARD).read_text()
    (place / "adapter" / CARD).unlink()
    facts = card()
    assert (place / "adapter" / CARD).read_text() == first
    assert facts["about"] == {"license": "cc-by-4.0", "datasets": ["a/b", "c"], "data_license": "CC BY 4.0"}
    assert "licence of the data: CC BY 4.0" in first
    assert ModelCard(first).data.datasets == ["a/b", "c"]
    facts = card("--license", "mit", "--dataset", "")
    assert facts["about"] == {"license": "mit", "datasets": [], "data_license": "CC BY 4.0"}
    assert len(facts["speed"]) == 1


def test_a_second_call_says_that_nothing_changed(place):
    assert invoke("card", "adapter", "verify.json").stdout == f"adapter/{CARD}: 1 rows of speed, 0 of quality\n"
    result = invoke("card", "adapter", "verify.json")
    assert result.stdout == f"adapter/{CARD}: 1 rows of speed, 0 of quality; it was up to date\n"
    assert (place / "adapter" / RESULTS).is_file()
    assert not (place / "adapter" / CURVE).exists()  # the adapter has a history of one entry


def test_other_settings_make_results_stale(place):
    card("verify.json", "--license", "mit")
    config = place / "adapter" / "ssft_config.json"
    config.write_text(config.read_text().replace('"max_nodes": 48', '"max_nodes": 40'))
    refused("as it is now", "verify.json")
    result = invoke("card", "adapter", "--json")
    told = "adapter: results of an earlier state of this adapter's weights or settings were taken out of results.json"
    assert f"{told}; measure again with `ssft verify`" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["speed"], facts["about"]["license"]) == ([], "mit")
    assert "3 of 3" not in (place / "adapter" / CARD).read_text()
    assert invoke("card", "adapter").stderr == ""


def test_a_twin_is_put_beside(place):
    bundle = read_bundle("adapter")
    facts = {"metrics": {"exact_match": 60}, "method": "lora", "streaming": False}
    twin = eval_facts(bundle, adapter_sha256="1" * 64, **facts, command="ssft eval twin")
    save(place / "own.json", eval_facts(bundle))
    save(place / "twin.json", twin)
    (row,) = card("own.json", "--twin", "twin.json")["quality"]
    assert (row["value"], row["twin"]) == (62.5, 60)
    assert "| exact\\_match | 62.50 (47.50 – 77.50) | 60.00 (47.50 – 77.50) |" in (place / "adapter" / CARD).read_text()
    save(place / "own.json", eval_facts(bundle, scores={"exact_match": [100] * 25 + [0] * 15}))
    save(place / "twin.json", {**twin, "scores": {"exact_match": [0] + [100] * 24 + [0] * 15}})
    (row,) = card("own.json", "--twin", "twin.json")["quality"]
    assert row["difference"] == 2.5  # of 40 rows one is right that the twin has wrong
    low, high = row["difference_interval"]
    assert 0 <= low < 2.5 < high < 10
    assert "| 60.00 (47.50 – 77.50) | 2.50 (0.00 – 7.50) |" in (place / "adapter" / CARD).read_text()
    # What is kept of the adapter holds its rows, too.
    assert card("--twin", "twin.json")["quality"][0]["difference"] == 2.5
    save(place / "twin.json", {**twin, "scores": {"exact_match": [100] * 39}})
    refused("scores.exact_match has 39 values for 40 rows", "own.json", "--twin", "twin.json")
    save(place / "twin.json", {**twin, "rows": 41})
    refused("no `ssft eval` of adapter with the same data", "--twin", "twin.json")


def test_results_of_an_earlier_ssft_are_told_and_measured_again(place):
    about = {"license": "mit", "datasets": [], "data_license": ""}
    row = {"source": "verify", "method": "streaming", "tokens": 30, "calls": 8}
    old = {"format": 1, "adapter_sha256": "0" * 64, "about": about, "speed": [row], "quality": []}
    save(place / "adapter" / RESULTS, old)
    assert write_card(read_bundle("adapter"))
    text = (place / "adapter" / CARD).read_text()
    assert (
        "Results in the format of an earlier ssft are not shown; `ssft verify`, `ssft bench` and `ssft eval` " in text
    )
    result = invoke("card", "adapter", "verify.json")
    assert (result.exit_code, result.stdout) == (0, f"adapter/{CARD}: 1 rows of speed, 0 of quality\n")
    told = "adapter: results in the format of an earlier ssft were taken out of results.json; measure again with `ssft "
    assert told in result.stderr
    assert json.loads((place / "adapter" / RESULTS).read_text())["about"] == about
    assert invoke("card", "adapter").stderr == ""


def test_results_are_kept_as_the_commands_wrote_them(place):
    card("verify.json", "bench.json", "eval.json")
    written = [json.loads((place / f"{name}.json").read_text()) for name in ("verify", "bench", "eval")]
    assert json.loads((place / "adapter" / RESULTS).read_text())["results"] == [
        {**result, "outputs": []} if "outputs" in result else result for result in written
    ]


def test_wrong_input_leaves_the_folder_as_it_was(place):
    card("verify.json")
    bundle = read_bundle("adapter")
    save(place / "foreign.json", verify_facts(bundle, adapter_sha256="3" * 64))
    (place / "cut.json").write_text((place / "bench.json").read_text()[:-40])
    refused("foreign.json: measured with adapter (333333333333), not with adapter", "bench.json", "foreign.json")
    refused("cut.json: no whole JSON", "cut.json")
    refused("expected an id of https://huggingface.co", "--license", "MIT License")
    refused("dataset 'x y': expected an id of the hub", "--dataset", "x y")
    assert "does not exist" in invoke("card", "adapter", "nowhere.json").stderr
    (place / "adapter" / CARD).write_text("# by hand\n")
    refused("not written by ssft, and would be lost", "bench.json")


def test_a_plain_lora_is_refused(place):
    peft_folder(place / "plain", tiny_llama())
    result = invoke("card", "plain")
    assert result.exit_code == 2
    assert "error: plain: a plain peft LoRA without streams" in result.stderr
