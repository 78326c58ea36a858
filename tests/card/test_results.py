"""results.json: made from result files, kept, replaced, refused."""

import json
from dataclasses import replace

import pytest
from result_files import eval_facts, save, verify_facts
from sample_results import sample_bench, sample_suite

from ssft.bench.card_rows import describe_data, measured, with_twin
from ssft.bundle.format import RESULTS
from ssft.bundle.read import read_bundle
from ssft.card.results import MAX_BYTES, OWN_ROWS, About, Results, read_results, write_results
from ssft.errors import BundleError, ConfigError


@pytest.fixture
def bundle(written):
    return read_bundle(written[1])


def verify_rows(bundle, path, **changes):
    return measured(save(path, verify_facts(bundle, **changes)), bundle)


# -- from result files to rows ----------------------------------------------------------------------------------


def test_verify_becomes_a_row(bundle, tmp_path):
    (row,), quality = verify_rows(bundle, tmp_path / "v.json")
    assert quality == []
    assert (row.source, row.method, row.identical, row.rows, row.reference) == ("verify", "streaming", 99, 100, "plain")
    assert (row.tokens, row.calls, row.batch_size, row.max_new_tokens) == (3000, 800, 4, 128)
    assert (row.tree, row.data, row.speedup) == ("best_first, 7 nodes", OWN_ROWS, None)
    assert row.command == "ssft verify adapter --limit 100 --dtype float32"


def test_data_is_the_trainings_validation_file_by_its_hash_or_else_its_name(bundle, tmp_path):
    bundle.provenance = {"data": {"validation": {"name": "v.jsonl", "sha256": "ab" * 32}}}
    path = tmp_path / "e.json"
    _, (same,) = measured(save(path, eval_facts(bundle)), bundle)
    _, (other,) = measured(save(path, eval_facts(bundle, data={"name": "v.jsonl", "sha256": "cd" * 32})), bundle)
    assert (same.data, other.data) == (OWN_ROWS, "v.jsonl")
    assert (same.data_sha256, other.data_sha256) == ("ab" * 32, "cd" * 32)


def test_the_hash_of_data_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_data(tmp_path / "x.jsonl") == {"name": "x.jsonl", "sha256": digest}
    assert describe_data(None) is None


def test_eval_becomes_quality_and_where_it_streamed_tokens_per_call(bundle, tmp_path):
    (speed,), (quality,) = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    assert (quality.metric, quality.value, quality.low, quality.high) == ("exact_match", 62.5, 47.5, 77.5)
    assert (quality.rows, quality.twin, quality.data) == (40, None, "test.jsonl")
    assert (speed.method, speed.tokens, speed.calls, speed.identical) == ("streaming", 1300, 500, None)
    assert measured(save(tmp_path / "e.json", eval_facts(bundle, streaming=False)), bundle)[0] == []


def test_every_method_of_a_comparison_becomes_a_row(bundle, tmp_path):
    bench = sample_bench(adapter_sha256=bundle.weights_sha256, command="ssft bench a")
    bench.data = {"name": "rows.jsonl", "sha256": "0"}
    speed, quality = measured(save(tmp_path / "b.json", bench), bundle)
    assert ([row.method for row in speed], quality) == (list(bench.methods), [])
    row = next(row for row in speed if row.method == "streaming")
    streaming = bench.methods["streaming"]
    assert (row.speedup, row.baseline, row.rounds) == (streaming.speedup, "plain", 3)
    assert (row.speedup_low, row.speedup_high) == streaming.speedup_interval
    assert (row.identical, row.data, row.tree) == (10, "rows.jsonl", f"{bench.tree['kind']}, 16 nodes")
    assert (speed[0].identical, speed[0].tree) == (None, "")  # plain is what the others are compared to


def test_a_run_over_several_tasks_gives_this_adapters_only(bundle, tmp_path):
    suite = sample_suite()
    suite.tasks["dialogsum"].bench.adapter_sha256 = bundle.weights_sha256
    speed, quality = measured(save(tmp_path / "report.json", suite), bundle)
    task = suite.tasks["dialogsum"]
    assert {row.method: row.calls for row in speed} == {name: m.calls for name, m in task.bench.methods.items()}
    assert {row.command for row in (*speed, *quality)} == {suite.command}
    assert {row.metric: row.value for row in quality} == task.quality.adapter
    first, metric = quality[0], next(iter(task.quality.adapter))
    assert first.twin == task.quality.twin[metric]
    assert (first.difference_low, first.difference_high) == task.quality.difference_intervals[metric]
    assert {row.rows for row in quality} == {task.quality.rows}
    assert {row.data for row in speed} == {OWN_ROWS}
    task.bench.data = {"name": "a.jsonl", "sha256": "0"}
    speed, quality = measured(save(tmp_path / "report.json", suite), bundle)
    assert {row.data for row in (*speed, *quality)} == {"a.jsonl"}


def test_a_run_over_no_task_measured_nothing(bundle, tmp_path):
    suite = sample_suite()
    suite.tasks = {}
    with pytest.raises(ConfigError, match=r"report.json: measured with nothing, not with .*adapter"):
        measured(save(tmp_path / "report.json", suite), bundle)


def test_a_task_without_a_twin_has_its_own_numbers_only(bundle, tmp_path):
    suite = sample_suite()
    suite.tasks["e2e_nlg"].bench.adapter_sha256 = bundle.weights_sha256
    _, (row,) = measured(save(tmp_path / "report.json", suite), bundle)
    assert (row.value, row.twin, row.difference) == (66.0, None, None)


WRONG = [
    ({"adapter_sha256": "0" * 64}, r"v.json: measured with adapter \(000000000000\), not with .*adapter as it is now"),
    ({"adapter_sha256": None}, r"measured with adapter \(no hash\)"),
    ({"rows": "100"}, r"v.json: rows='100', expected a count"),
    ({"identical": True}, r"identical=True, expected a count"),
    ({"command": None}, r"command=None, expected a text .*; it was changed by hand"),
    ({"kind": "train"}, r"v.json: no result that `ssft bench`"),
]
WRONG_NUMBERS = [
    ({"metrics": {"exact_match": 10**400}}, r"e.json: metrics\['exact_match'\]=10+\.\.\., expected a finite number"),
    ({"metrics": {"exact_match": float("nan")}}, r"metrics\['exact_match'\]=nan, expected a finite number"),
    ({"intervals": {"exact_match": [1]}}, r"e.json: intervals\['exact_match'\]=\[1\], expected tuple"),
    ({"intervals": {"exact_match": [1, "2"]}}, r"intervals\['exact_match'\]=\[1, '2'\], expected tuple"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_NUMBERS)
def test_a_wrong_metric_is_refused(bundle, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        measured(save(tmp_path / "e.json", eval_facts(bundle, **changes)), bundle)


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_wrong_result_is_refused(bundle, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        verify_rows(bundle, tmp_path / "v.json", **changes)


def test_a_cut_off_result_and_one_of_another_kind(bundle, tmp_path):
    path = save(tmp_path / "v.json", verify_facts(bundle))
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ConfigError, match=r"v.json: no whole JSON .*cut off"):
        measured(path, bundle)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="no result that `ssft bench`"):
        measured(path, bundle)
    with pytest.raises(ConfigError, match=r"nowhere.json: cannot be read"):
        measured(tmp_path / "nowhere.json", bundle)
    with pytest.raises(ConfigError, match="does not say which command made it"):
        measured(save(path, sample_bench(adapter_sha256=bundle.weights_sha256, command="")), bundle)


# -- the twin ---------------------------------------------------------------------------------------------------


def twin_facts(bundle):
    changes = {"adapter_sha256": "1" * 64, "method": "lora", "streaming": False}
    return eval_facts(bundle, **changes, command="ssft eval twin --data test.jsonl")


def test_the_twins_metrics_stand_beside_the_adapters(bundle, tmp_path):
    _, quality = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    changes = {"metrics": {"exact_match": 60.0}, "intervals": {"exact_match": [45, 75]}}
    twin = {**twin_facts(bundle), **changes}
    (row,) = with_twin(save(tmp_path / "t.json", twin), quality, bundle)
    assert (row.value, row.twin, row.twin_low, row.twin_high) == (62.5, 60, 45, 75)
    assert (row.difference, row.twin_command) == (None, "ssft eval twin --data test.jsonl")
    assert row.twin_unlike == "trained on data that are not told"


def test_a_twin_of_another_training_is_told(bundle, tmp_path):
    same, other = ({"name": f"{name}.jsonl", "sha256": "cd" * 32} for name in ("train", "references"))
    bundle.provenance = {"data": {"train": same}, "steps": 30}
    _, quality = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    found = []
    trainings = [
        {**same, "steps": "30"},
        {**same, "sha256": "12"},
        {**other, "steps": "40"},
        {**same, "began_from": "ab" * 32},
        {},
    ]
    start = {"weights_sha256": twin_facts(bundle)["adapter_sha256"]}
    for data in trainings:
        twin = {**twin_facts(bundle), "trained_on": data}
        found += with_twin(save(tmp_path / "t.json", twin), quality, bundle)
    assert [row.twin_unlike for row in found] == [
        "",
        "trained on train.jsonl",
        "trained on references.jsonl, 40 steps",
        "began from other values",
        "trained on data that are not told",
    ]
    bundle.provenance = {"data": {"train": other}, "steps": 30, "adapter": start}
    (row,) = with_twin(save(tmp_path / "t.json", {**twin_facts(bundle), "trained_on": same}), quality, bundle)
    assert row.twin_unlike == "it is the plain LoRA that the adapter began from, trained on train.jsonl"
    bundle.loras += (replace(bundle.loras[0], rows="streams"),)
    (row,) = with_twin(save(tmp_path / "t.json", {**twin_facts(bundle), "trained_on": same}), quality, bundle)
    assert row.twin_unlike == "it is the plain LoRA that the adapter keeps, trained on train.jsonl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 41}, r"no `ssft eval` of .*adapter with the same data, rows, metric"),
        ({"data": {"name": "test.jsonl", "sha256": "cd" * 32}}, "no `ssft eval` of"),
        ({"metrics": {"rouge1": 1}, "intervals": {"rouge1": [0, 2]}}, "no `ssft eval` of"),
        ({"kind": "verify"}, "no result of `ssft eval --facts`"),
        (
            {"streaming": True},
            "measured with an adapter of method 'lora', streaming; the twin is the same training wit",
        ),
        ({"method": "streams"}, r"an adapter of method 'streams'; the twin is .* method=lora` makes it"),
        ({"method": ""}, "an adapter of method ''; the twin is"),
        ({"method": None}, "method=None, expected a text .* changed by hand"),
        ({"adapter": None, "adapter_sha256": "", "method": ""}, "measured with the bare base; the twin is"),
    ],
)
def test_a_twin_that_was_measured_otherwise_is_refused(bundle, tmp_path, changes, message):
    _, quality = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    twin = {**twin_facts(bundle), **changes}
    with pytest.raises(ConfigError, match=message):
        with_twin(save(tmp_path / "t.json", twin), quality, bundle)


# -- kept in the bundle -----------------------------------------------------------------------------------------


def kept(bundle, tmp_path):
    results = Results(bundle.weights_sha256, About("cc-by-4.0", ["owner/name"], "CC BY 4.0"))
    results.add(*verify_rows(bundle, tmp_path / "v.json"))
    results.add(*measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle))
    write_results(bundle, results)
    return results


def test_what_is_written_is_read(bundle, tmp_path):
    assert read_results(bundle) == Results(bundle.weights_sha256)
    results = kept(bundle, tmp_path)
    assert read_results(bundle) == results
    assert (len(results.speed), len(results.quality)) == (2, 1)


def test_the_same_command_replaces_its_result_and_another_joins_it(bundle, tmp_path):
    results = kept(bundle, tmp_path)
    results.add(*verify_rows(bundle, tmp_path / "v.json", identical=100))
    assert [row.identical for row in results.speed] == [None, 100]
    for changes in ({"command": "ssft verify b"}, {"device": "cuda: H100"}, {"precision": "bfloat16"}):
        results.add(*verify_rows(bundle, tmp_path / "v.json", **changes))
    assert len(results.speed) == 5
    assert len(results.quality) == 1


def test_two_files_of_one_name_do_not_replace_each_other(bundle, tmp_path):
    results = Results(bundle.weights_sha256)
    one, two = ({"name": "test.jsonl", "sha256": digit * 64} for digit in "12")
    for data in (one, two, one):
        results.add(*measured(save(tmp_path / "e.json", eval_facts(bundle, data=data)), bundle))
        results.add(*verify_rows(bundle, tmp_path / "v.json", data=data))
    assert sorted(row.data_sha256[0] for row in results.quality) == ["1", "2"]
    assert sorted((row.source, row.data_sha256[0]) for row in results.speed) == [
        ("eval", "1"),
        ("eval", "2"),
        ("verify", "1"),
        ("verify", "2"),
    ]
    write_results(bundle, results)
    assert read_results(bundle) == results


def test_results_of_other_weights_are_not_read(bundle, tmp_path):
    kept(bundle, tmp_path)
    bundle.weights_sha256 = "2" * 64
    results = read_results(bundle)
    assert results.stale
    assert results == Results("2" * 64, About("cc-by-4.0", ["owner/name"], "CC BY 4.0"))


def row(part, **changes):
    """Damage of the first row of a part of results.json."""
    return lambda v: {**v, part: [{**v[part][0], **changes}]}


DAMAGE = [
    (lambda v: {**v, "format": 2}, "its format is 2, this ssft reads 1"),
    (lambda v: {**v, "speed": {}}, r"speed=\{\}, expected list"),
    (lambda v: {**v, "speed": [3]}, r"'speed\[0\]' is missing or no object"),
    (row("speed", calls="1"), r"speed\[0\].calls='1', expected a count"),
    (row("speed", calls=-1), r"speed\[0\].calls=-1, expected a count"),
    (row("speed", calls=10**400), r"speed\[0\].calls=10+\.\.\., expected a count"),
    (row("speed", speedup=float("nan")), r"speed\[0\].speedup=nan, expected a finite number | none"),
    (row("speed", speedup=-(10**400)), r"speed\[0\].speedup=-10+\.\.\., expected a finite number"),
    (row("speed", extra=1), r"speed\[0\].extra is unknown"),
    (row("speed", command="x" * 5000), r"speed\[0\].command='x+\.\.\., expected a text of at most 4,000"),
    (row("quality", value=10**400), r"quality\[0\].value=10+\.\.\., expected a finite number"),
    (lambda v: {**v, "quality": [{"metric": "x"}]}, r"quality\[0\].\w+ is missing"),
    (lambda v: {**v, "about": None}, "'about' is missing or no object"),
    (lambda v: {**v, "about": {"datasets": "owner/name"}}, "about.datasets='owner/name', expected list"),
    (lambda v: {**v, "about": {"license": "MIT; see below"}}, "license 'MIT; see below': expected an id"),
    (lambda v: {**v, "about": {"datasets": ["a/b", "<b>"]}}, "dataset '<b>': expected an id of the hub"),
    (lambda v: {k: v[k] for k in v if k != "adapter_sha256"}, "adapter_sha256 is missing"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_file_is_named(bundle, tmp_path, damage, message):
    kept(bundle, tmp_path)
    path = bundle.path / RESULTS
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(BundleError, match=rf"results.json: {message}"):
        read_results(bundle)


def test_size_and_links_are_checked_before_reading(bundle, tmp_path):
    path = bundle.path / RESULTS
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(BundleError, match=r"results.json: 1,048,577 bytes"):
        read_results(bundle)
    path.unlink()
    path.symlink_to(save(tmp_path / "elsewhere.json", {}))
    with pytest.raises(BundleError, match="outside the adapter folder"):
        read_results(bundle)


def test_nothing_is_written_that_could_not_be_read(bundle, tmp_path):
    results = kept(bundle, tmp_path)
    before = (bundle.path / RESULTS).read_bytes()
    results.speed.append(replace(results.speed[0], command="x" * 5000))
    with pytest.raises(ConfigError, match=r"cannot be kept in results.json: speed\[2\].command='x+\.\.\., expected"):
        write_results(bundle, results)
    assert (bundle.path / RESULTS).read_bytes() == before


def test_nothing_is_written_that_is_larger_than_what_is_read(bundle, tmp_path):
    results = kept(bundle, tmp_path)
    before = (bundle.path / RESULTS).read_bytes()
    results.speed = [replace(results.speed[0], command="x" * 4000)] * 300
    with pytest.raises(ConfigError, match=r"results.json would have 1,\d{3},\d{3} bytes, at most 1,048,576 are read"):
        write_results(bundle, results)
    assert (bundle.path / RESULTS).read_bytes() == before
