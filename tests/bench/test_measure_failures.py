"""A comparison leaves out a method that cannot run, and keeps its finished rounds where it is interrupted."""

import pytest
import torch
from scripted_methods import PROMPTS, Scripted, run, scripted

from ssft.bench import measure as measure_module
from ssft.bench.measure import measure
from ssft.errors import GenerationError


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
