"""The profile: parts add up, nothing stays on the model, and its own clock counts right."""

import time

import pytest
import torch
from fake_adapted import fake_adapted, random_prompts

from ssft.bench.profile import LAYERS, MASKS, PARTS, PROMPT, STREAMS, Clock, instrumented, profile, profile_table

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_parts_add_up_to_the_pass(batch_size):
    profiles = profile(fake_adapted(), random_prompts(2), 10, batch_size, progress=False)
    assert list(profiles) == ["plain", "streaming"]
    for result in profiles.values():
        assert list(result.parts) == list(PARTS)
        assert sum(part.ms for part in result.parts.values()) == pytest.approx(result.ms_per_pass)
        assert sum(part.share for part in result.parts.values()) == pytest.approx(1)
        assert result.tokens == 20
        assert result.prompt_ms > 0
    plain, streaming = profiles["plain"], profiles["streaming"]
    assert plain.passes == (18 if batch_size == 1 else 9)
    assert plain.parts[STREAMS].ms == 0
    assert streaming.passes < plain.passes
    assert all(streaming.parts[part].ms > 0 for part in PARTS)
    table = profile_table(profiles)
    assert [row[0] for row in table.texts()] == [*PARTS, "whole pass", "per token", "prompts' pass"]
    assert [column.name for column in table.head] == ["ms per pass", "plain", "share", "streaming", "share"]


def test_without_streams_there_is_only_the_plain_pass():
    assert list(profile(fake_adapted(streams=False), random_prompts(1), 4)) == ["plain"]


def test_every_timer_is_hit_and_all_are_gone_afterwards():
    adapted = fake_adapted()
    layers = adapted.hooks.backbone.layers
    hooks = [(len(layer._forward_pre_hooks), len(layer._forward_hooks)) for layer in layers]
    timer, clock = adapted.step.timer, Clock(CPU)
    with instrumented(adapted, clock, streaming=True):
        results = adapted.complete(random_prompts(2), max_new_tokens=10, batch_size=2)
    assert hooks == [(len(layer._forward_pre_hooks), len(layer._forward_hooks)) for layer in layers]
    assert adapted.step.timer is timer
    assert all(clock.calls[part] for part in (PROMPT, *PARTS[:-1]))
    assert clock.calls[MASKS] == clock.calls[LAYERS] == clock.calls[STREAMS] == max(r.calls for r in results) - 1
    again = adapted.complete(random_prompts(2), max_new_tokens=10, batch_size=2)
    assert [r.token_ids for r in again] == [r.token_ids for r in results]


def test_the_clock_charges_a_part_with_its_own_time_only(monkeypatch):
    ticks = iter([0, 1, 2, 3, 4, 10, 20, 21, 23, 24])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    clock = Clock(CPU)
    clock.start("outer")  # 0
    clock.start("inner")  # 1
    with clock.part("innermost"):  # 2 to 3
        pass
    clock.stop()  # 4
    clock.stop()  # 10
    with clock.part(PROMPT), clock.part("inner"):  # 20; 21 to 23, inside a prompt's pass
        pass
    # 24
    assert dict(clock.seconds) == {"innermost": 1, "inner": 2, "outer": 7, PROMPT: 4}
    assert dict(clock.calls) == {"innermost": 1, "inner": 1, "outer": 1, PROMPT: 2}


def test_the_clock_stops_when_a_function_fails():
    clock = Clock(CPU)
    with pytest.raises(ZeroDivisionError), clock.part("part"):
        raise ZeroDivisionError
    assert clock.calls["part"] == 1
    assert not clock._stack
