"""The comparison: counts, rounds, interruption, differing outputs, and the written result."""

import json
import time
from pathlib import Path

import pytest
from fake_adapted import fake_adapted, random_prompts

from ssft.bench import report
from ssft.bench.measure import measure
from ssft.bench.methods import Setting, build_methods, method_names
from ssft.decoding.request import Generation
from ssft.errors import ConfigError

DESIGN_KEYS = {
    "tokens",
    "calls",
    "tokens_per_call",
    "seconds",
    "tokens_per_second",
    "speedup",
    "speedup_interval",
    "identical",
    "extra_parameters",
}


class Scripted:
    """A method that waits `delay` seconds per prompt and answers with its prompt; `log` gets every run."""

    def __init__(self, name, log, delay=0.0, calls=1, answer=None, stop_after=None):
        self.name, self.log, self.delay, self.calls, self.stop_after = name, log, delay, calls, stop_after
        self.answer = answer or (lambda prompt: prompt)

    def run(self, prompts):
        if self.stop_after is not None and len(self.log) >= self.stop_after:
            raise KeyboardInterrupt
        self.log.append((self.name, [tuple(prompt) for prompt in prompts]))
        time.sleep(self.delay * len(prompts))
        return [Generation(self.answer(prompt), calls=self.calls, accepted=[1, 2]) for prompt in prompts]

    def extra_parameters(self):
        return 7


PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]


@pytest.fixture(scope="module")
def adapted():
    return fake_adapted()


def scripted(**changes):
    log = []
    return log, {name: Scripted(name, log, **{"calls": 1, **changes.get(name, {})}) for name in ("plain", "other")}


def test_three_methods_agree_and_count(adapted):
    prompts = random_prompts(4)
    built = build_methods(method_names(), Setting(adapted, 10, 2))
    result = measure(adapted, prompts, built, max_new_tokens=10, batch_size=2, rounds=2, progress=False)
    assert list(result.methods) == method_names()
    plain, streaming = result.methods["plain"], result.methods["streaming"]
    assert (plain.tokens, plain.calls, plain.tokens_per_call) == (40, 40, 1)
    assert (plain.speedup, plain.speedup_interval, plain.speedup_spread) == (1, (1, 1), 0)
    assert streaming.tokens == 40
    assert streaming.calls < 40
    assert sum(streaming.accepted) == streaming.calls - 4
    assert plain.accepted == []
    assert {method.identical for method in result.methods.values()} == {4}
    assert (result.rows, result.rounds, result.interrupted) == (4, 2, False)


def test_the_json_has_the_names_that_others_build_on(adapted, tmp_path):
    _, methods = scripted()
    result = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=2, progress=False)
    report.write_json(tmp_path / "deep" / "result.json", result)
    facts = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert {"device", "precision", "threads", "rows", "methods", "batch_size", "max_new_tokens", "rounds"} <= set(facts)
    assert {"adapter", "versions", "tree"} <= set(facts)
    for method in facts["methods"].values():
        assert set(method) >= DESIGN_KEYS
        assert len(method["speedup_interval"]) == 2
        assert len(method["seconds_per_round"]) == 2
    assert facts["versions"]["torch"]


def test_speedup_is_against_plain(adapted):
    _, methods = scripted(plain={"delay": 0.02}, other={"delay": 0.005})
    other = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=3, progress=False).methods["other"]
    low, high = other.speedup_interval
    assert 1.5 < low <= other.speedup <= high
    assert other.seconds == pytest.approx(0.015, rel=1)
    assert other.tokens_per_second == pytest.approx(9 / other.seconds, rel=0.5)


def test_every_round_runs_every_method_over_all_prompts_and_the_order_changes(adapted):
    log, methods = scripted()
    measure(adapted, PROMPTS, methods, max_new_tokens=4, batch_size=2, rounds=12, progress=False)
    runs = log[4:]  # two methods warm up on the shortest and the longest batch
    assert len(log) == 4 + 12 * 2 * 2
    firsts = set()
    for start in range(0, len(runs), 4):
        chunk = runs[start : start + 4]
        firsts.add(chunk[0][0])
        for name in methods:
            prompts = sorted(prompt for who, batch in chunk if who == name for prompt in batch)
            assert prompts == sorted(map(tuple, PROMPTS))
    assert firsts == {"plain", "other"}


def test_the_seed_decides_the_order(adapted):
    orders = []
    for seed in (1, 1, 2):
        log, methods = scripted()
        measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=12, seed=seed, progress=False)
        orders.append([name for name, _ in log])
    assert orders[0] == orders[1] != orders[2]


def test_a_difference_in_any_round_counts(adapted):
    seen = []

    def answer(prompt):
        seen.append(prompt)
        # Warm-up, the first and the last round are right; one prompt goes wrong in between.
        return [1] if prompt == PROMPTS[1] and seen.count(prompt) == 3 else prompt

    _, methods = scripted(other={"answer": answer})
    result = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=3, progress=False)
    assert (result.methods["plain"].identical, result.methods["other"].identical) == (3, 2)


def test_an_interrupted_measurement_keeps_its_finished_rounds(adapted, capsys):
    # Warm-up takes 4 runs, a round 6; the sixth run of the second round is interrupted.
    _, methods = scripted(plain={"stop_after": 14}, other={"stop_after": 14})
    result = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=5, progress=False)
    assert (result.rounds, result.interrupted) == (1, True)
    assert all(len(method.seconds_per_round) == 1 for method in result.methods.values())
    assert "the result covers 1 of 5 rounds" in capsys.readouterr().err


def test_an_interruption_before_the_first_round_ends_it(adapted):
    _, methods = scripted(plain={"stop_after": 7}, other={"stop_after": 7})
    with pytest.raises(KeyboardInterrupt):
        measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=5, progress=False)


def test_the_baseline_and_a_prompt_are_needed(adapted):
    _, methods = scripted()
    with pytest.raises(ConfigError, match="measured against 'plain'"):
        measure(adapted, PROMPTS, {"other": methods["other"]}, max_new_tokens=4)
    with pytest.raises(ConfigError, match="0 prompts, 3 rounds"):
        measure(adapted, [], methods, max_new_tokens=4)


def test_the_report_tells_of_differences_and_depths(adapted):
    _, methods = scripted()
    methods["streaming"] = Scripted("streaming", [], answer=lambda prompt: [1])
    result = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=1, progress=False)
    rows = report.table_rows(result)
    assert [row[0] for row in rows] == ["plain", "other", "streaming"]
    assert all(len(row) == len(report.HEADERS) for row in rows)
    assert rows[2][7] == "0/3"
    lines = "\n".join(report.remarks(result))
    assert "streaming: 3 of 3 outputs differ" in lines
    assert "   1   67%  " + "#" * report.BAR_WIDTH in lines
    assert "3 prompts" in report.heading(result)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.json"
    report.write_text(target, "before")
    with pytest.raises(UnicodeEncodeError):
        report.write_text(target, "\ud800")
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a folder"):
        report.check_output(tmp_path)
    with pytest.raises(ConfigError, match="folder cannot be made"):
        report.check_output(tmp_path / "file" / "result.json")


def test_json_values():
    assert report.to_json({"a": float("nan"), "b": (1, Path("x")), 3: [float("inf")]}) == {
        "a": None,
        "b": [1, "x"],
        "3": [None],
    }
