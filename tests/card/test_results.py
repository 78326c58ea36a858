"""results.json: made from result files, kept, replaced, refused; and the rows that are made of it."""

import json
from dataclasses import replace

import pytest
from result_files import eval_facts, save, verify_facts
from sample_results import sample_bench, sample_suite

from ssft.bench.quality import put_twin_beside
from ssft.bundle.format import RESULTS
from ssft.bundle.read import read_bundle
from ssft.card.results import MAX_BYTES, About, Results, measured, read_results, write_results
from ssft.card.rows import OWN_ROWS, rows_of
from ssft.card.write import card_text
from ssft.cli._result import describe_data
from ssft.errors import BundleError, ConfigError
from ssft.results.reading import read_result
from ssft.results.schema import BenchResult, CategoryResult, EvalResult, TaskResult, VerifyResult


@pytest.fixture
def bundle(written):
    return read_bundle(written[1])


def verified(bundle, path, **changes):
    return measured(save(path, verify_facts(bundle, **changes)), bundle)


def rows(found, bundle):
    """(rows of speed, rows of quality) of results."""
    made = rows_of(Results(results=found), bundle)
    return made.speed, made.quality


def told_rows(path, value, bundle):
    return rows(measured(save(path, value), bundle), bundle)


def with_twin(path, own, bundle):
    """The quality rows of an adapter's own result with the twin's, which lies at `path`, beside them."""
    put_twin_beside(path, own, bundle)
    return rows(own, bundle)[1]


# -- from result files to rows ----------------------------------------------------------------------------------


def test_verify_becomes_a_row(bundle, tmp_path):
    (row,), quality = told_rows(tmp_path / "v.json", verify_facts(bundle), bundle)
    assert quality == []
    assert (row.source, row.method, row.identical, row.rows, row.reference) == ("verify", "streaming", 99, 100, "plain")
    assert (row.tokens, row.calls, row.batch_size, row.max_new_tokens) == (3000, 800, 4, 128)
    assert (row.tree, row.data, row.speedup) == ("best_first, 7 nodes", OWN_ROWS, None)
    assert row.command == "ssft verify adapter --limit 100 --dtype float32"


def test_data_is_the_trainings_validation_file_by_its_hash_or_else_its_name(bundle, tmp_path):
    bundle.provenance = {"data": {"validation": {"name": "v.jsonl", "sha256": "ab" * 32}}}
    path = tmp_path / "e.json"
    _, (same,) = told_rows(path, eval_facts(bundle), bundle)
    _, (other,) = told_rows(path, eval_facts(bundle, data={"name": "v.jsonl", "sha256": "cd" * 32}), bundle)
    assert (same.data, other.data) == (OWN_ROWS, "v.jsonl")


def test_the_hash_of_data_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert describe_data(tmp_path / "x.jsonl") == {"name": "x.jsonl", "sha256": digest}
    assert describe_data(None) is None


def test_eval_becomes_quality_and_where_it_streamed_tokens_per_call(bundle, tmp_path):
    (speed,), (quality,) = told_rows(tmp_path / "e.json", eval_facts(bundle), bundle)
    assert (quality.metric, quality.value, quality.interval) == ("exact_match", 62.5, (47.5, 77.5))
    assert (quality.rows, quality.twin, quality.data) == (40, None, "test.jsonl")
    assert (speed.method, speed.tokens, speed.calls, speed.identical) == ("streaming", 1300, 500, None)
    assert told_rows(tmp_path / "e.json", eval_facts(bundle, streaming=False), bundle)[0] == []


def test_every_method_of_a_comparison_becomes_a_row(bundle, tmp_path):
    bench = sample_bench(adapter_sha256=bundle.weights_sha256, command="ssft bench a")
    bench.data = {"name": "rows.jsonl", "sha256": "0"}
    speed, quality = told_rows(tmp_path / "b.json", bench, bundle)
    assert ([row.method for row in speed], quality) == (list(bench.methods), [])
    row = next(row for row in speed if row.method == "streaming")
    streaming = bench.methods["streaming"]
    assert (row.speedup, row.baseline, row.rounds) == (streaming.speedup, "plain", 3)
    assert row.speedup_interval == streaming.speedup_interval
    assert (row.identical, row.data, row.tree) == (10, "rows.jsonl", f"{bench.tree['kind']}, 16 nodes")
    assert (speed[0].identical, speed[0].tree) == (None, "")  # plain is what the others are compared to


def with_categories(bench, **sizes):
    """The comparison with categories of so many prompts; in each, a method's calls are as many as its name is long."""
    bench.rows = sum(sizes.values())
    for name, method in bench.methods.items():
        method.categories = {
            category: CategoryResult(size, 60, len(name), 60 / len(name), 4.0, "plain", 1.5, (1.2, 1.7), size)
            for category, size in sizes.items()
        }
    return bench


def test_the_comparison_with_the_most_prompts_is_told_by_category(bundle, tmp_path):
    made = [
        with_categories(sample_bench(adapter_sha256=bundle.weights_sha256, command=f"ssft bench {name}"), **sizes)
        for name, sizes in {"few": {"qa": 1, "rag": 2}, "most": {"qa": 4, "rag": 3}}.items()
    ]
    found = rows_of(Results(results=made), bundle)
    drafting = [name for name, method in made[0].methods.items() if method.kind == "speculative"]
    assert [(row.category, row.method) for row in found.categories] == [
        (category, name) for category in ("qa", "rag") for name in drafting
    ]
    assert {row.command for row in found.categories} == {"ssft bench most"}
    text = card_text(bundle, Results(results=made))
    assert "By category, of (2):" in text
    assert f"| rag | 3 | streaming | {60 / len('streaming'):.2f} | 1.50× (1.20 – 1.70) | plain | 3 of 3 |" in text


def test_one_category_is_no_table(bundle):
    bench = with_categories(sample_bench(adapter_sha256=bundle.weights_sha256, command="ssft bench a"), qa=4)
    assert rows_of(Results(results=[bench]), bundle).categories == []
    assert "By category" not in card_text(bundle, Results(results=[bench]))


def test_a_run_over_several_tasks_gives_this_adapters_only(bundle, tmp_path):
    suite = sample_suite()
    suite.tasks["dialogsum"].bench.adapter_sha256 = bundle.weights_sha256
    speed, quality = told_rows(tmp_path / "report.json", suite, bundle)
    task = suite.tasks["dialogsum"]
    assert {row.method: row.calls for row in speed} == {name: m.calls for name, m in task.bench.methods.items()}
    assert {row.command for row in (*speed, *quality)} == {suite.command}
    assert {row.metric: row.value for row in quality} == task.quality.adapter
    first, metric = quality[0], next(iter(task.quality.adapter))
    assert first.twin == task.quality.twin[metric]
    assert first.difference_interval == task.quality.difference_intervals[metric]
    assert {row.rows for row in quality} == {task.quality.rows}
    assert {row.data for row in speed} == {OWN_ROWS}
    task.bench.data = {"name": "a.jsonl", "sha256": "0"}
    speed, quality = told_rows(tmp_path / "report.json", suite, bundle)
    assert {row.data for row in (*speed, *quality)} == {"a.jsonl"}


def test_a_run_over_no_task_measured_nothing(bundle, tmp_path):
    suite = sample_suite()
    suite.tasks = {}
    with pytest.raises(ConfigError, match=r"report.json: measured with nothing, not with .*adapter"):
        measured(save(tmp_path / "report.json", suite), bundle)


def test_a_task_without_a_twin_has_its_own_numbers_only(bundle, tmp_path):
    suite = sample_suite()
    suite.tasks["e2e_nlg"].bench.adapter_sha256 = bundle.weights_sha256
    _, (row,) = told_rows(tmp_path / "report.json", suite, bundle)
    assert (row.value, row.twin, row.difference) == (66.0, None, None)


WRONG = [
    ({"adapter_sha256": "0" * 64}, r"v.json: measured with adapter \(000000000000\), not with .*adapter as it is now"),
    ({"adapter_sha256": None}, r"measured with adapter \(no hash\)"),
    ({"rows": "100"}, r"v.json: rows='100', expected a count"),
    ({"identical": True}, r"identical=True, expected a count"),
    ({"command": None}, r"command=None, expected a text .*; it was changed by hand"),
    ({"kind": "train"}, r"v.json: no result that `ssft bench`"),
    ({"passes": 3}, r"v.json: passes is unknown to this version of ssft; it was changed by hand or written by another"),
    ({"format": 3}, r"v.json: format 3, this version of ssft reads format 2"),
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
        verified(bundle, tmp_path / "v.json", **changes)


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
    own = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    changes = {"metrics": {"exact_match": 60.0}, "intervals": {"exact_match": [45, 75]}}
    twin = {**twin_facts(bundle), **changes}
    (row,) = with_twin(save(tmp_path / "t.json", twin), own, bundle)
    assert (row.value, row.twin, row.twin_interval) == (62.5, 60, (45, 75))
    assert (row.difference, row.twin_command) == (None, "ssft eval twin --data test.jsonl")
    assert row.twin_unlike == "trained on data that are not told"


def test_a_twin_of_another_training_is_told(bundle, tmp_path):
    same, other = ({"name": f"{name}.jsonl", "sha256": "cd" * 32} for name in ("train", "references"))
    bundle.provenance = {"data": {"train": same}, "steps": 30}
    own = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
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
        found += with_twin(save(tmp_path / "t.json", twin), own, bundle)
    assert [row.twin_unlike for row in found] == [
        "",
        "trained on train.jsonl",
        "trained on references.jsonl, 40 steps",
        "began from other values",
        "trained on data that are not told",
    ]
    bundle.provenance = {"data": {"train": other}, "steps": 30, "adapter": start}
    (row,) = with_twin(save(tmp_path / "t.json", {**twin_facts(bundle), "trained_on": same}), own, bundle)
    assert row.twin_unlike == "it is the plain LoRA that the adapter began from, trained on train.jsonl"
    bundle.loras += (replace(bundle.loras[0], rows="streams"),)
    (row,) = with_twin(save(tmp_path / "t.json", {**twin_facts(bundle), "trained_on": same}), own, bundle)
    assert row.twin_unlike == "it is the plain LoRA that the adapter keeps, trained on train.jsonl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 41}, r"no `ssft eval` of .*adapter with the same data, rows, metric"),
        ({"data": {"name": "test.jsonl", "sha256": "cd" * 32}}, "no `ssft eval` of"),
        ({"metrics": {"rouge1": 1}, "intervals": {"rouge1": [0, 2]}}, "no `ssft eval` of"),
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
    own = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    twin = {**twin_facts(bundle), **changes}
    with pytest.raises(ConfigError, match=message):
        with_twin(save(tmp_path / "t.json", twin), own, bundle)


def test_a_twin_is_measured_by_eval(bundle, tmp_path):
    own = measured(save(tmp_path / "e.json", eval_facts(bundle)), bundle)
    with pytest.raises(ConfigError, match="no result of `ssft eval --facts`"):
        with_twin(save(tmp_path / "t.json", verify_facts(bundle)), own, bundle)


# -- kept in the bundle -----------------------------------------------------------------------------------------


def kept(bundle, tmp_path):
    results = Results(About("cc-by-4.0", ["owner/name"], "CC BY 4.0"))
    results.add(verified(bundle, tmp_path / "v.json"))
    results.add(measured(save(tmp_path / "e.json", eval_facts(bundle, scores={"exact_match": [100] * 40})), bundle))
    bench = sample_bench(adapter_sha256=bundle.weights_sha256, command="ssft bench a")
    results.add(measured(save(tmp_path / "b.json", bench), bundle))
    task = sample_suite()
    task.tasks["dialogsum"].bench.adapter_sha256 = bundle.weights_sha256
    results.add(measured(save(tmp_path / "report.json", task), bundle))
    write_results(bundle, results)
    return results


def test_what_is_written_is_read(bundle, tmp_path):
    assert read_results(bundle) == Results()
    results = kept(bundle, tmp_path)
    assert read_results(bundle) == results
    assert list(map(type, results.results)) == [VerifyResult, EvalResult, BenchResult, TaskResult]
    # The token ids of plain's texts stay in the result's own file.
    assert (results.results[2].outputs, results.results[3].bench.outputs) == ([], [])
    assert replace(results.results[2], outputs=sample_bench().outputs) == read_result(tmp_path / "b.json")


def test_the_same_command_replaces_its_result_and_another_joins_it(bundle, tmp_path):
    results = Results(results=verified(bundle, tmp_path / "v.json"))
    results.add(verified(bundle, tmp_path / "v.json", identical=100))
    assert [result.identical for result in results.results] == [100]
    for changes in ({"command": "ssft verify b"}, {"device": "cuda: H100"}, {"precision": "bfloat16"}):
        results.add(verified(bundle, tmp_path / "v.json", **changes))
    assert len(results.results) == 4
    results.add(measured(save(tmp_path / "e.json", eval_facts(bundle, command=results.results[0].command)), bundle))
    assert len(results.results) == 5


def test_two_files_of_one_name_do_not_replace_each_other(bundle, tmp_path):
    results = Results()
    one, two = ({"name": "test.jsonl", "sha256": digit * 64} for digit in "12")
    for data in (one, two, one):
        results.add(measured(save(tmp_path / "e.json", eval_facts(bundle, data=data)), bundle))
        results.add(verified(bundle, tmp_path / "v.json", data=data))
    assert sorted((result.kind, result.data["sha256"][0]) for result in results.results) == [
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
    assert results.stale == "of an earlier state of this adapter's weights or settings"
    assert results == Results(About("cc-by-4.0", ["owner/name"], "CC BY 4.0"))


def change(number, *place, **changes):
    """Damage of a result in results.json, or of an object inside it."""

    def damage(value):
        entry = value["results"][number]
        for key in place:
            entry = entry[key]
        entry.update(changes)
        return value

    return damage


FIRST = r"results\[0\]"
PLAIN = r"results\[2\].methods\['plain'\]"
BIG = 10**400
DAMAGE = [
    (lambda v: {**v, "format": 3}, "its format is 3, this ssft reads 2"),
    (lambda v: {**v, "results": {}}, "results is no list"),
    (lambda v: {**v, "results": [3]}, FIRST + r" is no result of one adapter"),
    (lambda v: {**v, "results": [{"tasks": {}}]}, FIRST + r" is no result of one adapter"),
    (change(0, calls="1"), FIRST + r".calls='1', expected a count"),
    (change(0, calls=-1), FIRST + r".calls=-1, expected a count"),
    (change(0, calls=BIG), FIRST + r".calls=10+\.\.\., expected a count"),
    (
        change(2, "methods", "plain", calls=BIG),
        PLAIN + r".calls=10+\.\.\., expected a count",
    ),
    (change(2, "methods", "plain", speedup=float("nan")), PLAIN + r".speedup=nan, expected a finite number | none"),
    (change(2, "methods", "plain", speedup=-BIG), PLAIN + r".speedup=-10+\.\.\., expected a finite number"),
    (change(0, extra=1), FIRST + r".extra is unknown"),
    (change(0, command="x" * 5000), FIRST + r".command='x+\.\.\., expected a text of at most 4,000"),
    (
        change(1, metrics={"exact_match": 10**400}),
        r"results\[1\].metrics\['exact_match'\]=10+\.\.\., expected a finite n",
    ),
    (
        change(3, "quality", twin={"rouge1": "x"}),
        r"results\[3\].quality.twin\['rouge1'\]='x', expected a finite",
    ),
    (lambda v: {**v, "results": [{"kind": "verify"}]}, FIRST + r".\w+ is missing"),
    (lambda v: {**v, "about": None}, "'about' is missing or no object"),
    (lambda v: {**v, "about": {"datasets": "owner/name"}}, "about.datasets='owner/name', expected list"),
    (lambda v: {**v, "about": {"license": "MIT; see below"}}, "license 'MIT; see below': expected an id"),
    (lambda v: {**v, "about": {"datasets": ["a/b", "<b>"]}}, "dataset '<b>': expected an id of the hub"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_file_is_named(bundle, tmp_path, damage, message):
    kept(bundle, tmp_path)
    path = bundle.path / RESULTS
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(BundleError, match=rf"results.json: .*{message}"):
        read_results(bundle)


def test_size_and_links_are_checked_before_reading(bundle, tmp_path):
    path = bundle.path / RESULTS
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(BundleError, match=r"results.json: 4,194,305 bytes"):
        read_results(bundle)
    path.unlink()
    path.symlink_to(save(tmp_path / "elsewhere.json", {}))
    with pytest.raises(BundleError, match="outside the adapter folder"):
        read_results(bundle)


def test_nothing_is_written_that_is_larger_than_what_is_read(bundle, tmp_path):
    results = kept(bundle, tmp_path)
    before = (bundle.path / RESULTS).read_bytes()
    results.results = [replace(results.results[0], command="x" * 4000)] * 1200
    with pytest.raises(ConfigError, match=r"results.json would have \d,\d{3},\d{3} bytes, at most 4,194,304 are read"):
        write_results(bundle, results)
    assert (bundle.path / RESULTS).read_bytes() == before
