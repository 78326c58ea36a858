"""The profile: parts add up, nothing stays on the model, and its own clock counts right."""

import pytest
from fake_adapted import fake_adapted, random_prompts

from ssft.bench import profile as module
from ssft.bench.profile import BELOW, CACHE, HEAD, MASKS, PARTS, PROMPT, STREAMS, TREE, Clock, instrumented, profile
from ssft.decoding import engine
from ssft.decoding.cache import TreeCache


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


def test_without_streams_there_is_only_the_plain_pass():
    assert list(profile(fake_adapted(streams=False), random_prompts(1), 4)) == ["plain"]


def test_every_timer_is_hit_and_all_are_gone_afterwards():
    adapted = fake_adapted()
    decoder = adapted.decoder()
    layers = adapted.hooks.backbone.layers
    before = (engine.grow_tree, engine.tree_masks, TreeCache.keep, [len(layer._forward_pre_hooks) for layer in layers])
    clock = Clock()
    with instrumented(decoder, clock):
        results = decoder.generate(random_prompts(2), 10)
    after = (engine.grow_tree, engine.tree_masks, TreeCache.keep, [len(layer._forward_pre_hooks) for layer in layers])
    assert before == after
    assert "_prompt_pass" not in vars(decoder)
    assert "logits" not in vars(adapted.hooks.backbone)
    assert all(clock.calls[part] for part in (PROMPT, BELOW, STREAMS, HEAD, TREE, MASKS, CACHE))
    assert clock.calls[MASKS] == clock.calls[BELOW] == clock.calls[STREAMS] == max(r.calls for r in results) - 1
    assert [r.token_ids for r in decoder.generate(random_prompts(2), 10)] == [r.token_ids for r in results]


def test_the_clock_charges_a_part_with_its_own_time_only(monkeypatch):
    ticks = iter([0, 1, 4, 10, 20, 21, 23, 24])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    clock = Clock()
    clock.start("outer")  # 0
    clock.wrap("inner", lambda: None)()  # 1 to 4
    clock.stop()  # 10
    clock.start(PROMPT)  # 20
    clock.wrap("inner", lambda: None)()  # 21 to 23, inside a prompt's pass
    clock.stop()  # 24
    assert dict(clock.seconds) == {"inner": 3, "outer": 7, PROMPT: 4}
    assert dict(clock.calls) == {"inner": 1, "outer": 1, PROMPT: 2}


def test_the_clock_stops_when_a_function_fails():
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        clock.wrap("part", lambda: 1 / 0)()
    assert clock.calls["part"] == 1
    assert not clock._stack
