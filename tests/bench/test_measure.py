"""A comparison counts tokens and passes, mixes its rounds, chooses a baseline and tells categories apart."""

import json

import pytest
from fake_adapted import random_prompts
from scripted_methods import CLOCK, PROMPTS, Scripted, run, scripted

from ssft.bench import measure as measure_module
from ssft.bench.identity import top_margin
from ssft.bench.measure import category_batches, measure
from ssft.bench.methods import Setting, build_methods
from ssft.errors import ConfigError
from ssft.files import write_json
from ssft.results.schema import Difference, MethodResult

METHODS = ["plain", "generate", "streaming"]
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
    "extra_bytes",
    "peak_bytes",
    "prompt_seconds",
    "decode_seconds",
}


@pytest.fixture
def clock(monkeypatch):
    """`measure` reads the clock by which `Scripted` methods wait."""
    monkeypatch.setattr("ssft.bench.rounds.time", CLOCK)


def test_three_methods_agree_and_count(adapted):
    prompts = random_prompts(4)
    built = build_methods(METHODS, Setting(adapted, 10, 2))
    result = measure(adapted, prompts, built, max_new_tokens=10, batch_size=2, rounds=2, progress=False)
    assert list(result.methods) == METHODS
    plain, streaming = result.methods["plain"], result.methods["streaming"]
    assert (plain.tokens, plain.calls, plain.tokens_per_call) == (40, 40, 1)
    baseline = result.methods[result.baseline]
    assert result.baseline in ("plain", "generate")
    assert (baseline.speedup, baseline.speedup_interval, baseline.decode_speedup) == (1, (1, 1), 1)
    assert streaming.tokens == 40
    assert streaming.calls < 40
    assert sum(streaming.accepted) == streaming.calls - 4
    assert plain.accepted == []
    assert (plain.passes, plain.prompt_tokens) == (2 * 10, 4)  # two batches of two rows
    assert streaming.passes < streaming.calls < 2 * streaming.passes
    for method in result.methods.values():
        assert 0 < method.prompt_seconds < method.seconds
        assert method.prompt_seconds + method.decode_seconds == pytest.approx(method.seconds)
        assert method.peak_bytes is None  # no GPU
        assert method.categories == {}
        assert method.lossless
    assert [method.kind for method in result.methods.values()] == ["plain", "plain", "speculative"]
    assert result.outputs == [output.token_ids for output in built["plain"].run(prompts)]
    assert {method.identical for method in result.methods.values()} == {4}
    assert (result.rows, result.rounds, result.interrupted) == (4, 2, False)


def test_the_json_has_the_names_that_others_build_on(adapted, tmp_path):
    _, methods = scripted()
    result = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=2, progress=False)
    write_json(tmp_path / "deep" / "result.json", result)
    facts = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert {"device", "precision", "threads", "rows", "methods", "batch_size", "max_new_tokens", "rounds"} <= set(facts)
    assert {"adapter", "versions", "tree"} <= set(facts)
    for method in facts["methods"].values():
        assert set(method) >= DESIGN_KEYS
        assert set(method) == set(MethodResult.__dataclass_fields__)
        assert len(method["speedup_interval"]) == 2
        assert len(method["seconds_per_round"]) == 2
        assert method["training"] == {"steps": 9}
    assert facts["versions"]["torch"]


def test_speedup_is_against_the_baseline(adapted, clock):
    _, methods = scripted(plain={"delay": 0.02}, other={"delay": 0.005, "kind": "speculative"})
    other = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=3, progress=False).methods["other"]
    assert other.speedup_interval == pytest.approx([4, 4])
    assert other.speedup == pytest.approx(4)
    assert other.seconds == pytest.approx(0.015)
    assert other.tokens_per_second == pytest.approx(9 / 0.015)


def test_the_interval_spans_what_the_prompts_differ_by(adapted, clock):
    uneven = {"delay": lambda prompt: 0.02 / len(prompt), "kind": "speculative"}
    _, methods = scripted(plain={"delay": 0.02}, other=uneven)
    other = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=3, progress=False).methods["other"]
    low, high = other.speedup_interval
    assert 2 <= low < other.speedup < high <= 4


def test_every_round_runs_every_method_over_all_prompts_and_the_order_changes(adapted):
    log, methods = scripted()
    measure(adapted, PROMPTS, methods, max_new_tokens=4, batch_size=2, rounds=12, progress=False)
    # Two methods warm up on the batches of the longest prompt, of the fewest tokens and of the most.
    runs = log[6:]
    assert len(log) == 6 + 12 * 2 * 2
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


def test_no_speedup_is_against_a_slower_plain_method(adapted, clock):
    _, methods = scripted(plain={"delay": 0.012}, other={"delay": 0.004})
    methods["streaming"] = Scripted("streaming", [], delay=0.008, kind="speculative")
    result = run(adapted, methods, rounds=3)
    assert result.baseline == "other"
    assert result.methods["other"].speedup == 1
    assert result.methods["plain"].speedup < result.methods["streaming"].speedup < 1


def test_a_yardstick_is_timed_and_compared_with_nothing(adapted):
    log, methods = scripted(other={"kind": "yardstick", "answer": lambda prompt: [1]})
    result = run(adapted, methods, categories=["a", "a", "b"])
    other = result.methods["other"]
    assert (result.baseline, other.tokens, len(other.seconds_per_round)) == ("plain", 3, 1)
    assert other.tokens_per_second > 0
    keys = ("speedup", "speedup_interval", "decode_speedup", "identical")
    assert {getattr(other, key) for key in (*keys, "peak_bytes")} == {None}
    assert (other.differences, other.categories) == ([], {})
    assert len(log) == 2 * (3 + 3)


def test_a_planted_token_in_any_round_is_found(adapted):
    seen = []

    def answer(prompt):
        seen.append(prompt)
        # Warm-up (prompt 1 is the smallest), the first and the last round are right; one token goes wrong in between.
        return [6, 9] if prompt == PROMPTS[1] and seen.count(prompt) == 3 else prompt

    _, methods = scripted(other={"answer": answer})
    result = run(adapted, methods, rounds=3)
    assert (result.methods["plain"].identical, result.methods["other"].identical) == (3, 2)
    assert result.methods["plain"].differences == []
    with adapted.applied():
        margin = top_margin(adapted.hooks.backbone, [*PROMPTS[1], 6])
    assert result.methods["other"].differences == [Difference(row=1, position=1, expected=7, got=9, margin=margin)]


def test_the_first_round_that_differs_is_told(adapted):
    count = iter(range(10, 100))
    _, methods = scripted(other={"answer": lambda prompt: [next(count)]})
    (difference, *_) = run(adapted, methods, rounds=3).methods["other"].differences
    # The warm-up answers three times before the first round, which runs the shorter prompt 1 first.
    assert (difference.row, difference.position, difference.got) == (0, 0, 14)


def test_plain_must_repeat_itself_too(adapted):
    count = iter(range(100))
    _, methods = scripted(plain={"answer": lambda prompt: [next(count)]})
    plain = run(adapted, methods, rounds=2).methods["plain"]
    assert (plain.identical, len(plain.differences)) == (0, 3)


def test_an_output_that_ends_early_or_runs_on_is_a_difference(adapted):
    _, methods = scripted(other={"answer": lambda prompt: prompt[:2] if len(prompt) == 3 else [*prompt, 1]})
    other = run(adapted, methods).methods["other"]
    assert other.identical == 0
    found = [(d.position, d.expected, d.got, d.margin is None) for d in other.differences]
    assert found == [(2, 5, None, False), (2, None, 1, True), (4, None, 1, True)]


def test_texts_of_one_token_have_no_decoding_to_compare(adapted):
    _, methods = scripted(plain={"answer": lambda prompt: [1]}, other={"answer": lambda prompt: [1]})
    result = run(adapted, methods)
    assert [method.decode_speedup for method in result.methods.values()] == [None, None]
    assert result.methods["plain"].identical == 3


def test_empty_texts_are_counted(adapted):
    _, methods = scripted(plain={"answer": lambda prompt: []}, other={"answer": lambda prompt: [], "calls": 0})
    result = run(adapted, methods)
    plain, other = result.methods["plain"], result.methods["other"]
    assert (plain.tokens, plain.calls, plain.tokens_per_call, plain.identical) == (0, 3, 0, 3)
    assert (other.calls, other.tokens_per_call, other.identical) == (0, 0, 3)
    assert result.outputs == [[], [], []]


def test_a_prompt_is_needed(adapted):
    _, methods = scripted()
    with pytest.raises(ConfigError, match="0 prompts, 3 rounds"):
        measure(adapted, [], methods, max_new_tokens=4)


# --- categories ---


def test_batches_hold_one_category():
    assert category_batches([5, 1, 3, 1], 2) == [[1, 3], [2, 0]]
    assert category_batches([5, 1, 3, 1, 2], 2, ["b", "a", "b", "b", "a"]) == [[3, 2], [0], [1, 4]]


def test_categories_are_told_apart(adapted, clock):
    log, methods = scripted(
        plain={"delay": 0.01},
        other={"delay": lambda prompt: 0.002 if len(prompt) == 4 else 0.04, "kind": "speculative", "calls": 2},
    )
    # One prompt a batch, so that the category with two of them has two.
    result = run(adapted, methods, rounds=3, categories=["qa", "qa", "rag"])
    assert {len({len(prompt) == 4 for prompt in batch}) for _, batch in log} == {1}
    qa, rag = (result.methods["other"].categories[name] for name in ("qa", "rag"))
    assert list(result.methods["plain"].categories) == ["qa", "rag"]
    assert (qa.rows, qa.tokens, qa.calls, qa.tokens_per_call) == (2, 5, 4, 1.25)
    assert (rag.rows, rag.tokens, rag.calls, rag.tokens_per_call) == (1, 4, 2, 2)
    assert qa.speedup_interval[0] <= qa.speedup <= qa.speedup_interval[1]
    assert qa.speedup < 1
    assert rag.speedup > 2
    assert rag.speedup_interval is None
    assert (qa.baseline, rag.baseline) == ("plain", "plain")
    assert qa.seconds + rag.seconds == pytest.approx(result.methods["other"].seconds)


def test_a_category_has_its_own_fastest_plain_method(adapted, clock):
    slow_on_four = {"delay": lambda prompt: 0.03 if len(prompt) == 4 else 0.005}
    _, methods = scripted(plain=slow_on_four, other={"delay": 0.012})
    result = run(adapted, methods, categories=["qa", "qa", "rag"])
    assert result.methods[result.baseline].speedup == 1
    assert result.methods["plain"].categories["qa"].speedup == 1
    assert result.methods["other"].categories["qa"].speedup < 1
    assert result.methods["other"].categories["rag"].speedup == 1
    assert result.methods["plain"].categories["rag"].speedup < 1
    for method in result.methods.values():
        assert {name: category.baseline for name, category in method.categories.items()} == {
            "qa": "plain",
            "rag": "other",
        }


# --- the warm-up ---


@pytest.mark.parametrize("lengths", [[3, 3, 9], [5, 5, 9]])
def test_the_longest_prompt_is_met_first_and_not_only_where_memory_is_taken(adapted, monkeypatch, lengths):
    prompts = [[number + 3] * length for number, length in enumerate(lengths)]
    log, methods = scripted()
    del methods["other"]
    monkeypatch.setattr(measure_module, "peak_bytes", lambda _device, call: [log.append("memory"), call(), 5][-1])
    run_of = measure(adapted, prompts, methods, max_new_tokens=4, batch_size=2, rounds=1, progress=False)
    short, long = [tuple(prompts[0]), tuple(prompts[1])], [tuple(prompts[2])]
    warm_up = [entry if entry == "memory" else entry[1] for entry in log[:-2]]
    # Twice 5 tokens are more than 9, twice 3 are fewer.
    assert warm_up == ([long, short, "memory", long] if lengths[0] == 3 else [long, long, "memory", short])
    assert [batch for _, batch in log[-2:]] == [short, long]
    assert run_of.methods["plain"].peak_bytes == 5
