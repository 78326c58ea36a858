"""The comparison: counts, rounds, baseline, identity, categories, interruption."""

import json

import pytest
import torch
from fake_adapted import fake_adapted, random_prompts

from ssft.bench import measure as measure_module
from ssft.bench.identity import top_margin
from ssft.bench.measure import category_batches, measure
from ssft.bench.methods import Setting, build_methods
from ssft.bench.rounds import Timed
from ssft.bench.summary import Record, summarise
from ssft.decoding.request import Generation
from ssft.errors import ConfigError, GenerationError
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


class Clock:
    """Time that passes when it is told to: what a machine does besides cannot change a measurement."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch):
    """`measure` reads the clock by which `Scripted` methods wait."""
    monkeypatch.setattr("ssft.bench.rounds.time", CLOCK)


class Scripted:
    """A method that takes `delay` seconds of `CLOCK` per prompt (or what `delay` says of it) and answers with its
    prompt; `log` gets every run."""

    def __init__(
        self, name, log, delay=0.0, calls=1, answer=None, stop_after=None, kind="plain", prompt_seconds=0.0, change=None
    ):
        self.name, self.log, self.delay, self.calls, self.stop_after = name, log, delay, calls, stop_after
        self.answer = answer or (lambda prompt: prompt)
        self.change = change or (lambda outputs: outputs)
        self.KIND, self.LOSSLESS, self.prompt_seconds = kind, True, prompt_seconds

    def run(self, prompts):
        if self.stop_after is not None and len(self.log) >= self.stop_after:
            raise KeyboardInterrupt
        self.log.append((self.name, [tuple(prompt) for prompt in prompts]))
        CLOCK.sleep(sum(self.delay(prompt) if callable(self.delay) else self.delay for prompt in prompts))
        return self.change(
            [
                Generation(self.answer(prompt), self.calls, [1, 2], prompt_seconds=self.prompt_seconds * place)
                for place, prompt in enumerate(prompts, start=1)
            ]
        )

    extra_parameters, extra_bytes = 7, 28
    training = {"steps": 9}  # noqa: RUF012


PROMPTS = [[3, 4, 5], [6, 7], [8, 9, 10, 11]]


def margin(adapted, ids):
    with adapted.applied():
        return top_margin(adapted.hooks.backbone, ids)


@pytest.fixture(scope="module")
def adapted():
    return fake_adapted()


def scripted(**changes):
    """Two methods that share one log of their runs: `plain`, and `other`, which is plain as well unless told."""
    log = []
    return log, {name: Scripted(name, log, **{"calls": 1, **changes.get(name, {})}) for name in ("plain", "other")}


def run(adapted, methods, **settings):
    return measure(adapted, PROMPTS, methods, **{"max_new_tokens": 4, "rounds": 1, "progress": False, **settings})


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
    assert result.methods["other"].differences == [
        Difference(row=1, position=1, expected=7, got=9, margin=margin(adapted, [*PROMPTS[1], 6]))
    ]


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


# --- the numbers, from records made by hand ---

UNITS = [[1, 0], [2]]


def answer(tokens, prompt_seconds=0.0, calls=0, prompt_tokens=1):
    return Generation([5] * tokens, calls or tokens, prompt_seconds=prompt_seconds, prompt_tokens=prompt_tokens)


def by_hand(kind, *rounds):
    """A method whose rounds are [(seconds, answers) of each of `UNITS`]."""
    seconds, outputs = ([[unit[part] for unit in units] for units in rounds] for part in (0, 1))
    return Record(Scripted("", [], kind=kind), UNITS, Timed(seconds, outputs))


def summarised(records, categories=None):
    return summarise(records, categories, 0)


def test_prompt_time_is_that_of_the_slowest_row_of_each_batch():
    def plain(factor):
        pair = [answer(6, 1 * factor), answer(6, 2 * factor)]
        return [(8 * factor, pair), (6 * factor, [answer(5, 1 * factor)])]

    # In the second round the machine is half as fast: the medians lie between, the ratios stay. The other method gives
    # three of four tokens of each text with its first pass.
    drafting = [answer(6, 3, 2, 4), answer(6, 1, 3, 4)]
    other = [(5, drafting), (5, [answer(5, 1, 2, 3)])]
    slower = [(10, [answer(6, 6, 2, 4), answer(6, 2, 3, 4)]), (10, [answer(5, 2, 2, 3)])]
    candidates = {"plain": by_hand("plain", plain(1), plain(2)), "other": by_hand("speculative", other, slower)}
    results, baseline = summarised(candidates)
    assert baseline == "plain"
    found = results["plain"]
    assert (found.seconds, found.prompt_seconds, found.decode_seconds) == (21, 1.5 * (2 + 1), 16.5)
    assert (found.tokens, found.prompt_tokens, found.calls, found.passes) == (17, 3, 17, 6 + 5)
    assert (found.speedup, found.decode_speedup, found.tokens_per_call) == (1, 1, 1)
    found = results["other"]
    assert (found.seconds, found.prompt_seconds, found.decode_seconds) == (15, 1.5 * (3 + 1), 9)
    assert (found.tokens, found.prompt_tokens, found.calls, found.passes) == (17, 11, 7, 3 + 2)
    assert found.speedup == pytest.approx(14 / 10)
    # Plain needs 14 - 3 seconds for 17 - 3 tokens after the first passes, the other 10 - 4 seconds for 17 - 11.
    assert found.decode_speedup == pytest.approx((11 / 14) / (6 / 6))


def thirds(tokens, seconds, rounds=2):
    """Three texts of `tokens` tokens each; a unit takes `seconds` for each of its texts."""
    return [[(2 * seconds, [answer(tokens, seconds / 10)] * 2), (seconds, [answer(tokens, seconds / 10)])]] * rounds


def test_a_third_of_the_tokens_in_a_third_of_the_time_is_no_speed():
    candidates = {
        "plain": by_hand("plain", *thirds(30, 3.0)),
        "generate": by_hand("plain", *thirds(10, 1.1)),  # less time, and more per token
        "streaming": by_hand("speculative", *thirds(10, 1.0)),
    }
    results, baseline = summarised(candidates, ["a", "a", "b"])
    assert baseline == "plain"
    streaming = results["streaming"]
    assert streaming.speedup == pytest.approx(1)
    assert streaming.speedup_interval == pytest.approx((1, 1))
    # Seconds after the first pass for 29 and for 9 tokens of each text.
    plain_cost, cost = (9 - 0.6) / (3 * 29), (3 - 0.2) / (3 * 9)
    assert streaming.decode_speedup == pytest.approx(plain_cost / cost)
    assert results["generate"].speedup == pytest.approx(1 / 1.1)
    assert streaming.seconds == pytest.approx(3)
    assert streaming.tokens_per_second == pytest.approx(10)
    for category in ("a", "b"):
        assert streaming.categories[category].baseline == "plain"
        assert streaming.categories[category].speedup == pytest.approx(1)


def test_units_of_unlike_length_give_an_interval_of_seconds_per_token():
    # Half the seconds for half the tokens in the first unit, for the same tokens in the second.
    plain = [[(4.0, [answer(4)] * 2), (4.0, [answer(8)])]] * 3
    other = [[(2.0, [answer(2)] * 2), (2.0, [answer(8)])]] * 3
    results, _ = summarised({"plain": by_hand("plain", *plain), "other": by_hand("speculative", *other)})
    assert results["other"].speedup == pytest.approx(2 * 12 / 16)
    assert results["other"].speedup_interval == pytest.approx((1, 2))


def test_there_is_no_interval_from_one_round_or_one_unit():
    one = {name: by_hand("plain", *thirds(4, 1.0, rounds=1)) for name in ("plain", "other")}
    results, _ = summarised(one, ["a", "a", "b"])
    assert {results[name].speedup_interval for name in one} == {None}
    two = {name: by_hand("plain", *thirds(4, 1.0)) for name in ("plain", "other")}
    results, _ = summarised(two, ["a", "a", "b"])
    assert results["other"].speedup_interval == pytest.approx((1, 1))
    assert {entry.speedup_interval for entry in results["other"].categories.values()} == {None}


def test_a_text_that_comes_whole_with_its_first_pass_has_no_decoding_to_compare():
    whole = [[(2.0, [answer(4, 1.0, 1, 4)] * 2), (1.0, [answer(4, 1.0, 1, 4)])]]
    candidates = {"plain": by_hand("plain", *thirds(4, 1.0, 1)), "other": by_hand("speculative", *whole)}
    results, _ = summarised(candidates)
    assert (results["other"].prompt_tokens, results["other"].decode_speedup) == (12, None)
    assert results["plain"].decode_speedup == pytest.approx(1)


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


# --- methods that cannot run, and interruption ---


@pytest.mark.parametrize("change", [lambda outputs: outputs[:-1], lambda outputs: [*outputs, *outputs]])
def test_a_method_that_gives_too_few_or_too_many_outputs_cannot_run(adapted, change):
    _, methods = scripted(other={"change": change})
    assert "the method other gave" in run(adapted, methods, left_out={}).left_out["other"]
    with pytest.raises(GenerationError, match=r"the method other gave \d outputs for 1 prompts"):
        run(adapted, methods)


def failing(prompts):
    raise GenerationError("it cannot run here")


def test_a_method_that_fails_in_the_warm_up_is_left_out_if_that_is_allowed(adapted):
    _, methods = scripted(other={"change": failing})
    result = run(adapted, methods, left_out={"medusa": "no heads"})
    assert result.left_out == {"medusa": "no heads", "other": "it cannot run here"}
    assert list(result.methods) == ["plain"]
    with pytest.raises(GenerationError, match="it cannot run here"):
        run(adapted, methods)
    methods["plain"].change = failing
    with pytest.raises(GenerationError, match="it cannot run here"):
        run(adapted, methods, left_out={})


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, torch.OutOfMemoryError])
def test_in_the_warm_up_libraries_errors_count_too(adapted, kind):
    def broken(_outputs):
        raise kind("it is too much")

    _, methods = scripted(other={"change": broken})
    result = run(adapted, methods, left_out={})
    assert result.left_out == {"other": f"{kind.__name__}: it is too much"}
    with pytest.raises(kind, match="it is too much"):
        run(adapted, methods)
    methods["plain"].change = broken
    with pytest.raises(kind, match="it is too much"):
        run(adapted, methods, left_out={})


def failing_from(number, error=GenerationError):
    runs = iter(range(1, 100))

    def change(outputs):
        if next(runs) >= number:
            raise error("it ran out of luck")
        return outputs

    return change


@pytest.mark.parametrize("number", [4, 8])  # three runs of warm-up; the first round, the second
def test_a_method_that_fails_in_a_round_leaves_and_the_others_keep_theirs(adapted, number):
    log, methods = scripted(other={"change": failing_from(number)})
    methods["third"] = Scripted("third", log)
    result = run(adapted, methods, rounds=3, left_out={})
    assert result.left_out == {"other": "it ran out of luck"}
    assert list(result.methods) == ["plain", "third"]
    assert {len(method.seconds_per_round) for method in result.methods.values()} == {3}
    assert (result.rounds, result.interrupted) == (3, False)
    _, methods = scripted(other={"change": failing_from(number)})
    with pytest.raises(GenerationError, match="out of luck"):
        run(adapted, methods, rounds=3)
    _, methods = scripted(plain={"change": failing_from(number)})
    with pytest.raises(GenerationError, match="out of luck"):
        run(adapted, methods, rounds=3, left_out={})


def test_a_round_that_breaks_otherwise_is_no_reason_to_go_on(adapted):
    _, methods = scripted(other={"change": failing_from(4, RuntimeError)})
    with pytest.raises(RuntimeError, match="out of luck"):
        run(adapted, methods, rounds=3, left_out={})


def test_what_was_found_in_a_round_that_was_cut_off_is_cut_off_too(adapted):
    wrong = iter([False] * 6 + [True] * 100)  # three runs of warm-up and the first round are right
    answer = {"answer": lambda prompt: [1] if next(wrong) else prompt}
    _, methods = scripted(plain={"stop_after": 17}, other={"stop_after": 17, **answer})
    result = run(adapted, methods, rounds=5)
    assert (result.rounds, result.interrupted) == (1, True)
    assert result.methods["other"].identical == 3


def test_an_interruption_after_the_last_round_keeps_all(adapted, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_module, "add_margins", stop)
    _, methods = scripted(other={"answer": lambda prompt: [1]})
    result = run(adapted, methods, rounds=2)
    assert (result.rounds, result.interrupted, result.methods["other"].identical) == (2, True, 0)


def test_an_interrupted_measurement_keeps_its_finished_rounds(adapted, capsys):
    # Warm-up takes 6 runs, a round 6; the sixth run of the second round is interrupted.
    _, methods = scripted(plain={"stop_after": 17}, other={"stop_after": 17})
    result = measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=5, progress=False)
    assert (result.rounds, result.interrupted) == (1, True)
    assert all(len(method.seconds_per_round) == 1 for method in result.methods.values())
    assert "the result covers 1 of 5 rounds" in capsys.readouterr().err


def test_an_interruption_before_the_first_round_ends_it(adapted):
    _, methods = scripted(plain={"stop_after": 11}, other={"stop_after": 11})
    with pytest.raises(KeyboardInterrupt):
        measure(adapted, PROMPTS, methods, max_new_tokens=4, rounds=5, progress=False)


def test_a_prompt_is_needed(adapted):
    _, methods = scripted()
    with pytest.raises(ConfigError, match="0 prompts, 3 rounds"):
        measure(adapted, [], methods, max_new_tokens=4)
