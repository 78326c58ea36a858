"""The card: what the hub reads, what people read, what strangers must not do with it."""

import html
import json
import math
import re
from dataclasses import replace

import pytest
from adapter_folders import peft_folder
from conftest import tiny_llama
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from result_files import eval_facts, save, verify_facts
from sample_results import sample_bench

from ssft.base.load import hub_id
from ssft.bundle.format import CARD, CURVE, PROVENANCE
from ssft.bundle.read import read_bundle
from ssft.card.picture import draw_curve, loss_series
from ssft.card.results import About, Results, measured, write_results
from ssft.card.write import KEPT, card_text, write_card
from ssft.errors import BundleError, ConfigError
from ssft.results.schema import QualityResult

PNG = b"\x89PNG\r\n\x1a\n"
HISTORY = [
    *({"step": s, "loss_main": 2.0 / s, "loss_stream_1": 4.0 / s, "loss_stream_2": 5.0 / s} for s in range(1, 6)),
    {"step": 5, "eval_acceptance_1": 0.8, "eval_acceptance_2": 0.5, "eval_loss_main": 0.4},
]
PROVENANCE_OF_A_RUN = {
    "ssft": "0.1.0",
    "libraries": {"torch": "2.13.0", "peft": "0.21.2"},
    "device": "cpu: Intel Xeon, 2 threads",
    "processes": 1,
    "train_seconds": 7260.0,
    "train_rows": 4000,
    "steps": 500,
    "data": {"train": {"name": "train.jsonl.gz", "sha256": "ab" * 32}, "validation": {"name": "v.jsonl.gz"}},
    "metrics": {"eval_acceptance_1": 0.8, "eval_loss": 1.2},
    "history": HISTORY,
}
GAPS = [{"step": step, "loss_main": loss} for step, loss in enumerate((1.0, float("nan"), float("inf")))]
HOSTILE = "</code>|<script>alert(1)</script> [x](http://evil) ```\n# heading\n![p](http://evil/p.png) `|`"


@pytest.fixture
def bundle(written):
    (written[1] / PROVENANCE).write_text(json.dumps(PROVENANCE_OF_A_RUN))
    return read_bundle(written[1])


def results_of(bundle, tmp_path, about=None):
    results = Results(about or About())
    results.add(measured(save(tmp_path / "v.json", verify_facts(bundle)), bundle))
    results.add(measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle))
    return results


def card_of(bundle, results=None):
    return ModelCard(card_text(bundle, results))


def tables(text):
    """{first cell: other cells} over all table rows."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


# -- for the hub ------------------------------------------------------------------------------------------------


def test_front_matter_as_the_hub_reads_it(bundle, tmp_path):
    bundle.base = {**bundle.base, "id": "smollm2-135m"}
    data = card_of(bundle, results_of(bundle, tmp_path, About("cc-by-4.0", ["owner/name"]))).data
    assert (data.base_model, data.library_name) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "peft")
    assert (data.pipeline_tag, data.license, data.datasets) == ("text-generation", "cc-by-4.0", ["owner/name"])
    assert {"lora", "ssft", "speculative-streaming"} <= set(data.tags)
    assert (data.model_name, data.metrics) == ("adapter", ["exact_match"])
    found = {
        (e.metric_type, e.dataset_name, e.dataset_type, e.dataset_split): e.metric_value for e in data.eval_results
    }
    assert found == {
        ("tokens_per_call", "v.jsonl.gz", "owner/name", "validation"): 3.75,
        ("identical_outputs", "v.jsonl.gz", "owner/name", "validation"): 99.0,
        ("tokens_per_call", "test.jsonl", "test.jsonl", None): 2.6,
        ("exact_match", "test.jsonl", "test.jsonl", None): 62.5,
    }
    assert all("cpu: Intel Xeon, 2 threads" in e.metric_name for e in data.eval_results if "per_call" in e.metric_type)


def test_a_base_that_the_hub_does_not_know_is_left_out(bundle):
    data = card_of(bundle).data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert "model-index" not in data
    bundle.base = {**bundle.base, "id": "owner/base"}
    assert card_of(bundle).data.base_model == "owner/base"


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("a/b", "a/b"),
        ("folder", None),
        ("a/b/c", None),
        ("a/b\n", None),
    ],
)
def test_the_hubs_name_of_a_base(identity, expected):
    assert hub_id(identity) == expected


def test_a_dataset_of_the_hub_names_itself(bundle):
    bundle.provenance["data"] = {"train": {"name": "owner/rows:config"}, "validation": {"name": ""}}
    assert card_of(bundle).data.datasets == ["owner/rows"]
    bundle.provenance["data"] = {"train": {"name": "owner/rows.jsonl", "sha256": "ab"}}  # a local file
    assert card_of(bundle).data.datasets is None


# -- for people -------------------------------------------------------------------------------------------------


def test_rows_of_the_tables_carry_numbers_and_commands(bundle, tmp_path):
    text = card_text(bundle, results_of(bundle, tmp_path))
    speed = [line for line in text.splitlines() if line.startswith("| streaming |")]
    assert speed[0].startswith("| streaming | 3.75 | – | – | 99 of 100 (plain) | float32, 4, best\\_first, 7 nodes |")
    assert speed[0].endswith("| validation rows: 100 prompts, at most 128 tokens | (1) |")
    assert speed[1].startswith("| streaming | 2.60 | – | – | – |")
    assert tables(text)["exact\\_match"] == ["62.50 (47.50 – 77.50)", "–", "–", "test.jsonl: 40 rows, float32", "(2)"]
    assert (
        "ssft verify adapter --limit 100 --dtype float32   # (1)\nssft eval adapter --data test.jsonl   # (2)" in text
    )
    assert "Speed and identity on cpu: Intel Xeon, 2 threads:" in text


def test_speed_up_and_twin(bundle, tmp_path):
    results = results_of(bundle, tmp_path)
    bench = sample_bench(adapter_sha256=bundle.weights_sha256, command="ssft bench a")
    for name in ("streaming", "plain"):
        bench.methods[name].speedup, bench.methods[name].speedup_interval = 1.83, (1.6, 2.04)
    own = results.results[1]
    own.streaming = False
    own.quality = QualityResult(
        *(own.rows, own.metric, own.metrics, own.intervals),
        twin={"exact_match": 61},
        twin_intervals={"exact_match": (46, 76)},
        differences={"exact_match": 1.5},
        difference_intervals={"exact_match": (-2, 5)},
        twin_unlike=["trained on b"],
        twin_command="ssft eval twin",
    )
    results.results = [bench, own]
    rows = tables(card_text(bundle, results))
    assert "The twin: trained on b." in card_text(bundle, results)
    assert rows["streaming"][1:3] == ["1.83× (1.60 – 2.04)", "plain, 3 rounds"]
    assert rows["plain"][1:3] == ["1.83× (1.60 – 2.04)", "plain, 3 rounds"]
    assert rows["exact\\_match"][1:3] == ["61.00 (46.00 – 76.00)", "1.50 (−2.00 – 5.00)"]
    assert rows["exact\\_match"][-1] == "(2), (3)"


def test_training_comes_from_the_provenance(bundle):
    rows = tables(card_text(bundle))
    assert rows["trained on"] == ["4,000 rows of train.jsonl.gz |".rstrip(" |")]
    assert (rows["steps"], rows["time"], rows["device"]) == (
        ["500"],
        ["7,260 s (2.02 h)"],
        ["cpu: Intel Xeon, 2 threads"],
    )
    assert rows["versions"] == ["ssft 0.1.0, torch 2.13.0, peft 0.21.2"]
    assert rows["acceptance 1, at the end, teacher-forced"] == ["0.800"]
    assert rows["parameters: LoRA, streams"] == [f"{bundle.loras[0].parameters:,}, {bundle.extra_parameters:,}"]
    assert "- train: `train.jsonl.gz`, sha256 `abababababababab`…" in card_text(bundle)
    assert "licence of the adapter: not given" in card_text(bundle)


def test_a_bundle_without_provenance_has_a_card(written):
    bundle = read_bundle(written[1])
    assert bundle.provenance == {}
    text = card_text(bundle)
    assert "Nothing measured yet" in text
    assert CURVE not in text
    assert {"trained on", "steps", "device"}.isdisjoint(tables(text))


def test_results_of_other_weights_are_not_shown(bundle, tmp_path):
    results = results_of(bundle, tmp_path)
    for result in results.results:
        result.adapter_sha256 = "1" * 64
    write_results(bundle, results)
    text = card_text(bundle)
    assert "Results of an earlier state of this adapter's weights or settings are not shown" in text
    assert "99 of 100" not in text


# -- writing ----------------------------------------------------------------------------------------------------


def test_writing_is_once_and_keeps_what_the_user_wrote(bundle):
    path = bundle.path / CARD
    assert write_card(bundle)
    assert path.read_text().endswith(KEPT + "\n")
    assert (bundle.path / CURVE).read_bytes().startswith(PNG)
    stamps = [(bundle.path / name).stat().st_mtime_ns for name in (CARD, CURVE)]
    assert not write_card(bundle)
    assert [(bundle.path / name).stat().st_mtime_ns for name in (CARD, CURVE)] == stamps
    path.write_text(path.read_text() + "\n## My notes\n\nMade with care.\n")
    bundle.provenance["steps"] = 501
    assert write_card(bundle)
    assert "| steps | 501 |" in path.read_text()
    assert path.read_text().endswith(KEPT + "\n\n## My notes\n\nMade with care.\n")
    assert path.read_text().count("My notes") == 1


def test_a_card_by_another_hand_is_not_lost(bundle):
    path = bundle.path / CARD
    path.write_text("# My model\n")
    with pytest.raises(
        BundleError, match=r"README.md: not written by ssft, and would be lost.*its first line: <!-- ssft"
    ):
        write_card(bundle)
    assert path.read_text() == "# My model\n"
    path.write_text(f"{KEPT}\n# My model\n")
    write_card(bundle)
    assert path.read_text().endswith(f"{KEPT}\n# My model\n")
    path.write_text("---\ntags:\n- lora\n- speculative-streaming\n---\nmy own words\n")  # anybody's tags
    with pytest.raises(BundleError, match=r"README.md: not written by ssft, and would be lost"):
        write_card(bundle)
    assert "my own words" in path.read_text()


@pytest.mark.parametrize(
    ("below", "kept"),
    [
        ("", ""),
        ("\n", ""),
        ("  \n", ""),
        ("\r\nmine\r\n", "mine\r\n"),
        (" \t\nmine", "mine"),
        ("\n\nmine\n", "\nmine\n"),
        (" mine\nand mine\n", " mine\nand mine\n"),
    ],
)
def test_notes_survive_an_editors_touch(bundle, below, kept):
    path = bundle.path / CARD
    path.write_bytes(f"# old\n{KEPT}{below}".encode())
    write_card(bundle)
    assert path.read_bytes().decode().partition(KEPT)[2] == "\n" + kept
    write_card(bundle)
    assert path.read_bytes().decode().partition(KEPT)[2] == "\n" + kept


def test_notes_that_are_no_text_are_left_alone(bundle):
    path = bundle.path / CARD
    data = f"{KEPT}\ncaf".encode() + b"\xe9\n"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"README\.md: not readable as text"):
        write_card(bundle)
    assert path.read_bytes() == data


def test_a_name_with_the_mark_takes_nothing_from_the_card(bundle):
    bundle.provenance["data"] = {"train": {"name": KEPT, "sha256": KEPT}}
    for _ in range(2):
        write_card(bundle)
        assert (bundle.path / CARD).read_text().count(KEPT) == 1
        assert (bundle.path / CARD).read_text().endswith(KEPT + "\n")


def test_a_plain_lora_has_no_card_of_ours(tmp_path):
    bundle = read_bundle(peft_folder(tmp_path / "plain", tiny_llama()))
    before = sorted(path.name for path in bundle.path.iterdir())
    with pytest.raises(ConfigError, match="a plain peft LoRA without streams"):
        write_card(bundle)
    assert sorted(path.name for path in bundle.path.iterdir()) == before


# -- strangers --------------------------------------------------------------------------------------------------


def test_text_of_strangers_stays_text(bundle, tmp_path):
    results = results_of(bundle, tmp_path, About("mit", [], HOSTILE))
    hostile = {"command": HOSTILE, "device": HOSTILE, "precision": HOSTILE}
    hostile |= {"data": {"name": HOSTILE}, "tree": {"kind": HOSTILE, "max_nodes": HOSTILE}}
    verified, scored = (replace(result, **hostile) for result in results.results)
    scored.metrics, scored.intervals, scored.streaming = {HOSTILE: 1.0}, {HOSTILE: (0.0, 2.0)}, False
    verified.against = HOSTILE
    results.results = [verified, scored]
    bundle.provenance |= {"device": HOSTILE, "ssft": HOSTILE, "data": {"train": {"name": HOSTILE, "sha256": HOSTILE}}}
    bundle.base = {**bundle.base, "id": HOSTILE}
    bundle.loras[0].config["target_modules"] = [HOSTILE]
    text = card_text(bundle, results).split("\n---\n", 1)[1]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in page.lower()
    assert 'href="http://evil' not in page
    assert re.findall(r'<img[^>]* src="([^"]*)"', page) == [CURVE]
    assert page.count("<h1") == 1
    assert "alert(1)" in html.unescape(page)
    clean = MarkdownIt("commonmark", {"html": True}).enable("table").render(card_text(bundle).split("\n---\n", 1)[1])
    assert page.count("<table") == clean.count("<table") + 2  # no cell leaves its table
    for table in page.split("<table")[1:]:
        header, *rows = table.split("</table")[0].split("<tr>")[1:]
        assert {row.count("<td") for row in rows} == {header.count("<th")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": "x"}, "history is no list of objects"),
        ({"history": [3]}, "history is no list of objects"),
        ({"history": [{"step": 1, "loss_main": "x"}]}, "history has loss_main='x', no number"),
        ({"history": [{"step": 1, "loss_main": True}]}, "history has loss_main='True', no number"),
        ({"history": [{"step": 1, "eval_acceptance_1": None}]}, "history has eval_acceptance_1='None', no number"),
        ({"steps": "many"}, "steps='many', expected a number"),
        ({"steps": 10**400}, "steps='10{59}', expected a number"),
        ({"train_rows": float("inf")}, "train_rows='inf', expected a number"),
        ({"train_seconds": -1}, "train_seconds='-1', expected a number"),
    ],
)
def test_a_damaged_provenance_is_named(bundle, changes, message):
    bundle.provenance |= changes
    with pytest.raises(BundleError, match=f"provenance.json: {message}"):
        write_card(bundle)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf")])
def test_a_metric_that_is_no_finite_number_is_left_out(bundle, value):
    bundle.provenance["metrics"] = {"eval_acceptance_1": value, "eval_acceptance_2": 0.5}
    rows = tables(card_text(bundle))
    assert rows["acceptance 2, at the end, teacher-forced"] == ["0.500"]
    assert "acceptance 1, at the end, teacher-forced" not in rows


# -- the curve --------------------------------------------------------------------------------------------------


def test_the_curve_holds_losses_and_acceptance_in_order():
    losses, acceptances = loss_series([*HISTORY, {"step": 6, "loss_stream_10": 1, "loss_stream_x": 1, "loss": 9}])
    assert list(losses) == ["main", "stream 1", "stream 2", "stream 10"]
    assert losses["stream 1"] == {s: 4 / s for s in range(1, 6)}
    assert acceptances == {"depth 1": {5: 0.8}, "depth 2": {5: 0.5}}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400, 1e300])
def test_a_step_that_overflowed_is_a_gap(bundle, value):
    """fp16 training logs one such loss now and then, and goes on."""
    history = [*HISTORY, {"step": 6, "loss_main": value, "eval_acceptance_1": value}, {"step": 7, "loss_main": 0.2}]
    losses, acceptances = loss_series(history)
    assert [math.isnan(loss) for loss in losses["main"].values()] == [False] * 5 + [True, False]
    assert math.isnan(acceptances["depth 1"][6])
    bundle.provenance["history"] = history
    assert write_card(bundle)
    assert (bundle.path / CURVE).read_bytes() == draw_curve(history) != draw_curve(HISTORY)


def test_a_step_beyond_any_axis_is_left_out():
    assert loss_series([*HISTORY, {"step": 10**400, "loss_main": 1.0}]) == loss_series(HISTORY)


def test_the_picture_is_small_and_the_same_each_time():
    picture = draw_curve(HISTORY)
    assert picture.startswith(PNG)
    assert len(picture) < 100_000
    assert draw_curve(HISTORY) == picture
    width = int.from_bytes(picture[16:20], "big")
    assert int.from_bytes(draw_curve(HISTORY[:5])[16:20], "big") < width  # nothing was evaluated: one panel


@pytest.mark.parametrize(
    "history", [[], HISTORY[:1], [{"step": 1, "eval_acceptance_1": 1}], [{"loss_main": 1}] * 3, GAPS]
)
def test_too_little_history_makes_no_picture(history):
    assert draw_curve(history) is None


def test_losses_that_are_zero_are_drawn():
    assert draw_curve([{"step": s, "loss_main": 0.0} for s in (1, 2)]).startswith(PNG)
