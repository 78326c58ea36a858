"""Several adapters in one run: what is kept, what is scored, what is freed, and what an interruption leaves."""

import gc
import weakref

import pytest
from fake_adapted import fake_adapted

from ssft.bench import suite
from ssft.bench.answers import encode_rows
from ssft.bench.methods import generate_static, method_names
from ssft.bench.metrics import choose_metric
from ssft.bench.quality import quality_result, questions_of, summarise
from ssft.bench.spec_bench import row_categories
from ssft.bench.statistics import mean_interval
from ssft.bench.suite import SuiteSettings, Task, run_suite
from ssft.errors import ConfigError, DataError, GenerationError

ROWS = [{"prompt": f"5 {number} 7"} for number in range(9, 15)]
FAST = {"limit": 2, "rounds": 1, "max_new_tokens": 3, "methods": ["plain", "streaming"], "progress": False}


def settings(**changes):
    return SuiteSettings(**{**FAST, **changes})


def with_own_answers(adapted, tokens):
    """`ROWS`, each with what the adapter answers as the right completion."""
    results = adapted.complete(encode_rows(adapted, ROWS), max_new_tokens=tokens, speculate=False)
    texts = [adapted.decode(result.token_ids) for result in results]
    return [{**row, "completion": text} for row, text in zip(ROWS, texts, strict=True)]


def saver(log):
    return lambda result: log.append((list(result.tasks), result.interrupted))


def test_every_task_is_measured_and_saved_as_soon_as_it_is_done():
    saved = []
    tasks = [Task(name, ROWS, fake_adapted) for name in ("one", "two", "three")]
    result = run_suite(tasks, settings(), "ssft bench tasks", saver(saved))
    # A file that is left by a kill must not pass for the whole.
    assert saved == [(["one"], True), (["one", "two"], True), (["one", "two", "three"], False)]
    assert (list(result.tasks), result.interrupted) == (["one", "two", "three"], False)
    bench = result.tasks["two"].bench
    assert (bench.rows, bench.rounds, bench.max_new_tokens, list(bench.methods)) == (2, 1, 3, ["plain", "streaming"])
    assert bench.methods["streaming"].identical == 2
    assert (result.precision, result.command) == ("float32", "ssft bench tasks")
    assert result.device.startswith("cpu: ")
    assert result.versions["torch"]
    assert result.created.endswith("+00:00")
    assert all(task.quality is None for task in result.tasks.values())


@pytest.fixture
def no_gc():
    """Python collects cycles when it likes, which would hide that nobody asked it to."""
    gc.disable()
    yield
    gc.enable()


def test_one_model_at_a_time_the_twins_included(no_gc):
    alive, loads = [], []

    def load(kind):
        def make():
            loads.append((kind, sum(reference() is not None for reference in alive)))
            adapted = fake_adapted(streams=kind == "adapter")
            adapted.itself = adapted  # hooks of a model may hold it in cycles
            alive.append(weakref.ref(adapted.model))
            return adapted

        return make

    rows = [{**row, "completion": "1"} for row in ROWS]
    tasks = [Task(name, rows, load("adapter"), load("twin")) for name in ("one", "two")]
    run_suite(tasks, settings(), "", lambda _: None)
    assert loads == [("adapter", 0), ("twin", 0), ("adapter", 0), ("twin", 0)]


def test_quality_is_the_adapters_and_the_twins_on_the_same_rows():
    rows = with_own_answers(fake_adapted(), 3)
    twin = fake_adapted(streams=False, seed=7)
    expected = [row["completion"] for row in with_own_answers(twin, 3)]
    twin_right = [row["completion"] == text for row, text in zip(rows, expected, strict=True)]
    rows[0]["completion"] = "wrong"  # so that the adapter is not right everywhere
    own_right = [False, True, True, True]
    unlike = ["training.seed (1, None)"]
    task = Task("one", rows, fake_adapted, lambda: fake_adapted(streams=False, seed=7), twin_unlike=unlike)
    result = run_suite([task], settings(quality_limit=4), "", lambda _: None).tasks["one"].quality
    assert (result.rows, result.metric, result.twin_unlike) == (4, "exact", unlike)
    assert result.adapter == {"exact_match": 75}
    assert result.adapter_intervals == {"exact_match": mean_interval([100.0 * right for right in own_right])}
    assert not all(twin_right[1:4]), "the twin answers as the adapter does, so the test shows nothing"
    own = [100.0 * right for right in own_right]
    other = [0.0, *(100.0 * right for right in twin_right[1:4])]
    assert result.twin == {"exact_match": sum(other) / 4}
    assert result.differences == {"exact_match": (sum(own) - sum(other)) / 4}
    gains = [left - right for left, right in zip(own, other, strict=True)]
    assert result.difference_intervals == {"exact_match": mean_interval(gains)}


def test_without_a_twin_its_fields_are_empty_and_without_references_there_is_no_quality():
    rows = [{**row, "completion": "1 2 3"} for row in ROWS]
    done = run_suite(
        [Task("with", rows, fake_adapted, twin_unlike=["x"]), Task("without", ROWS, fake_adapted)],
        settings(),
        "",
        lambda _: None,
    )
    quality = done.tasks["with"].quality
    assert (quality.rows, quality.adapter, quality.twin, quality.differences) == (6, {"exact_match": 0}, {}, {})
    assert quality.twin_unlike == []
    assert done.tasks["without"].quality is None
    none = run_suite([Task("with", rows, fake_adapted)], settings(quality_limit=0), "", lambda _: None)
    assert none.tasks["with"].quality is None


def test_a_paired_interval_is_narrower_than_the_twos_own():
    hard = [0.0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    result = quality_result("rouge", [{"rouge1": value + 1} for value in hard], [{"rouge1": value} for value in hard])
    assert result.differences == {"rouge1": 1}
    assert result.difference_intervals == {"rouge1": (1, 1)}
    low, high = result.twin_intervals["rouge1"]
    assert high - low > 20
    assert result.adapter == summarise([{"rouge1": value + 1} for value in hard])[0]


@pytest.mark.parametrize(
    ("references", "metric"),
    [
        ([["SELECT a FROM t"], ["select b from t where c = 1"]], "sql"),
        ([["positive"], ["very negative indeed"]], "exact"),
        ([["A man walks home in the rain."], ["Two friends talk."]], "rouge"),
        ([["SELECT a FROM t"], ["no SQL at all here"]], "rouge"),
        ([["yes"], ["no", "nope"]], "rouge"),
    ],
)
def test_the_metric_follows_from_the_references(references, metric):
    assert choose_metric("auto", references) == metric


def test_questions_are_the_rows_that_say_what_is_right():
    chat = [{"role": "user", "content": "hello"}]
    rows = [
        {"prompt": "1"},
        {"prompt": "2", "references": ["SELECT a"]},
        {"messages": [*chat, {"role": "assistant", "content": "SELECT b"}]},
        {"messages": chat},
        {"prompt": "3", "completion": "SELECT c"},
    ]
    questions = questions_of(rows, 4)
    assert (questions.references, questions.metric) == ([["SELECT a"], ["SELECT b"]], "sql")
    assert questions_of(rows[:1], 4) is None
    with pytest.raises(DataError, match="row 2: reference 1 is empty"):
        questions_of([{"prompt": "1"}, {"prompt": "2", "references": [" "]}], 2)


class Stopping:
    """The plain method, interrupted in its `stop`-th run."""

    def __init__(self, method, stop):
        self.method, self.stop, self.runs = method, stop, 0

    def run(self, prompts):
        self.runs += 1
        if self.runs == self.stop:
            raise KeyboardInterrupt
        return self.method.run(prompts)

    def __getattr__(self, name):
        return getattr(self.method, name)


def interrupted(monkeypatch, task, stop):
    """Ctrl-C in the `stop`-th run of plain, in the task of that name."""
    ready = suite.ready_methods

    def stopping(names, setting):
        methods, left_out = ready(names, setting)
        if setting.adapted.active.name == task:
            methods["plain"] = Stopping(methods["plain"], stop)
        return methods, left_out

    monkeypatch.setattr(suite, "ready_methods", stopping)


def two_tasks(rows=ROWS):
    return [Task(name, rows, lambda name=name: fake_adapted(name=name)) for name in ("one", "two")]


def test_an_interruption_keeps_what_is_finished(monkeypatch, capsys):
    interrupted(monkeypatch, "two", 1)
    saved = []
    result = run_suite(two_tasks(), settings(), "", saver(saved))
    assert saved == [(["one"], True), (["one"], True)]
    assert result.interrupted
    assert "the result covers one" in capsys.readouterr().err


def test_finished_rounds_of_the_running_task_are_kept_and_nothing_runs_after_them(monkeypatch):
    # Far more runs than warm-up and memory take, fewer than all rounds.
    interrupted(monkeypatch, "one", 30)
    loads = []
    tasks = two_tasks([{**row, "completion": "1"} for row in ROWS])
    tasks.append(Task("three", ROWS, lambda: loads.append(1)))
    result = run_suite(tasks, settings(rounds=40), "", lambda _: None)
    assert (list(result.tasks), result.interrupted, loads) == (["one"], True, [])
    bench = result.tasks["one"].bench
    assert bench.interrupted
    assert 0 < bench.rounds < 40
    assert result.tasks["one"].quality is None


def test_an_interruption_among_the_answers_keeps_the_comparison(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "score_answers", stop)
    rows = [{**row, "completion": "1"} for row in ROWS]
    result = run_suite(two_tasks(rows), settings(), "", lambda _: None)
    assert (list(result.tasks), result.interrupted) == (["one"], True)
    assert not result.tasks["one"].bench.interrupted
    assert result.tasks["one"].quality is None


def test_an_error_among_the_answers_keeps_the_comparison_and_is_raised(monkeypatch, capsys):
    def fail(*_):
        raise DataError("no answers")

    monkeypatch.setattr(suite, "score_answers", fail)
    saved = []
    with pytest.raises(DataError, match="no answers"):
        run_suite(two_tasks([{**row, "completion": "1"} for row in ROWS]), settings(), "", saver(saved))
    assert saved == [(["one"], True)]
    assert "one failed: the result covers one" in capsys.readouterr().err


def test_an_interruption_before_anything_is_finished_ends_the_run(monkeypatch):
    interrupted(monkeypatch, "one", 1)
    saved = []
    with pytest.raises(KeyboardInterrupt):
        run_suite(two_tasks(), settings(), "", saver(saved))
    assert saved == []


def no_compiler(*_):
    """Compiling takes longer than all the rest."""
    raise ConfigError("no compiler in this test")


def test_all_methods_are_those_that_can_run_with_the_reason_for_the_others(capsys, monkeypatch):
    monkeypatch.setattr(generate_static.Method, "__init__", no_compiler)
    task = Task("plain", ROWS[:1], lambda: fake_adapted(streams=False))
    result = run_suite([task], settings(methods=None, rounds=1, progress=True), "", lambda _: None)
    bench = result.tasks["plain"].bench
    assert {*bench.methods, *bench.left_out} == set(method_names())
    assert {"plain", "generate"} <= set(bench.methods)
    assert "has no streams" in bench.left_out["streaming"]
    assert bench.left_out["generate_static"] == "no compiler in this test"
    assert "1/1 plain: 1 prompts with plain, " in capsys.readouterr().err
    with pytest.raises(GenerationError, match="has no streams"):
        run_suite([task], settings(methods=["plain", "streaming"]), "", lambda _: None)


def test_categories_are_kept_apart():
    rows = [{**row, "category": name} for row, name in zip(ROWS, ("a", "b"), strict=False)]
    bench = run_suite([Task("one", rows, fake_adapted)], settings(), "", lambda _: None).tasks["one"].bench
    assert list(bench.methods["streaming"].categories) == ["a", "b"]
    assert row_categories([{"category": "a"}, {}]) == ["a", "other"]
    assert row_categories(ROWS) is None
    grouped = row_categories([{"category": "coding"}, {"category": "qa"}, {"category": "stem"}])
    assert grouped == ["multi-turn conversation", "qa", "multi-turn conversation"]


def test_wrong_input():
    with pytest.raises(DataError, match="prompts of one: row 1: the prompt has 0 tokens"):
        run_suite([Task("one", [{"prompt": ""}], fake_adapted)], settings(), "", lambda _: None)
    with pytest.raises(ConfigError, match="0 tasks, limit=2, quality_limit=40: a run needs a task"):
        run_suite([], settings(), "", lambda _: None)
    for wrong in ({"limit": 0}, {"quality_limit": -1}):
        with pytest.raises(ConfigError, match="1 tasks, limit="):
            run_suite([Task("one", ROWS, fake_adapted)], settings(**wrong), "", lambda _: None)
