"""Streams on a model's own layers leave its text and the model itself as they are; some models are refused."""

import pytest
import torch
from conftest import LAYERS, TINY, random_ids, with_adapter
from covering import over_architectures
from inserted_streams import FORMS, GAMMA, LENGTH, SOURCES, build, close, plan_for, run

from ssft.errors import ConfigError, UnsupportedArchitectureError
from ssft.streams import attention
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import attach_streams, streams_of
from ssft.streams.plan import StreamPlan

# --- the main stream is the unchanged model ---


@over_architectures(**FORMS)
def test_adapter_and_streams_are_no_identity(architecture, config):
    ids = random_ids(1, LENGTH)
    base = run(TINY[architecture](), ids=ids).logits
    model = build(architecture, config)
    assert (run(model, ids=ids).logits - base).abs().max() > 0.5
    hooks, plan = StreamHooks(model), plan_for(model)
    run(model, hooks, plan, ids)
    streams = plan.streams.unflatten(1, (-1, GAMMA))
    assert (streams[:, :, 0] - streams[:, :, 1]).abs().max() > 0.01
    assert (streams[:, :, 0] - plan.main[:, SOURCES]).abs().max() > 0.1


@over_architectures(**FORMS)
def test_one_row_with_streams_has_the_logits_of_the_unhooked_model(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    plain = run(model, ids=ids).logits
    hooks = StreamHooks(model)
    assert torch.equal(run(model, ids=ids).logits, plain)  # hooked, no plan
    close(run(model, hooks, plan_for(model), ids).logits, plain)


@over_architectures(**FORMS, masked={"no_mask": False, "mask": True})
def test_right_padded_batch_has_the_logits_of_the_unhooked_model(architecture, config, masked):
    ids, lengths = random_ids(3, LENGTH), [LENGTH, 7, 4]
    mask = torch.tensor([[1] * n + [0] * (LENGTH - n) for n in lengths])
    model = build(architecture, config)
    plain = run(model, ids=ids, attention_mask=mask).logits
    hooks = StreamHooks(model)
    plan = StreamPlan(streams_of(model), torch.tensor([[2, 9], [3, 6], [0, 3]]), GAMMA)
    logits = run(model, hooks, plan, ids, attention_mask=mask if masked else None).logits
    for row, length in enumerate(lengths):
        close(logits[row, :length], plain[row, :length])
        alone = StreamPlan(streams_of(model), plan.sources[row : row + 1], GAMMA)
        run(model, hooks, alone, ids[row : row + 1, :length])
        close(plan.streams[row], alone.streams[0])


@over_architectures(**FORMS)
def test_left_padding_changes_nothing(architecture, config):
    ids, pad = random_ids(1, LENGTH), 3
    model = build(architecture, config)
    hooks = StreamHooks(model)
    alone = plan_for(model)
    logits = run(model, hooks, alone, ids).logits
    padded = torch.cat((random_ids(1, pad, seed=9), ids), dim=1)
    mask = torch.tensor([[0] * pad + [1] * LENGTH])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    plan = plan_for(model, [t + pad for t in SOURCES])
    close(run(model, hooks, plan, padded, attention_mask=mask, position_ids=positions).logits[:, pad:], logits)
    close(plan.streams, alone.streams)


@over_architectures(**FORMS)
def test_cache_of_main_rows_is_the_one_without_streams(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    plain = run(model, ids=ids, use_cache=True).past_key_values
    hooks = StreamHooks(model)
    streamed = run(model, hooks, plan_for(model), ids, use_cache=True).past_key_values
    for index, (a, b) in enumerate(zip(plain.layers, streamed.layers, strict=True)):
        extra = GAMMA * len(SOURCES) if index >= LAYERS - 2 else 0
        assert b.keys.shape[2] == LENGTH + extra
        close(b.keys[:, :, :LENGTH], a.keys)
        close(b.values[:, :, :LENGTH], a.values)


@over_architectures(**FORMS)
def test_stream_parameters_never_reach_the_main_stream(architecture, config):
    ids = random_ids(2, LENGTH)
    model = build(architecture, config)
    hooks = StreamHooks(model)
    before, after = plan_for(model, batch=2), plan_for(model, batch=2)
    first = run(model, hooks, before, ids, use_cache=True)
    parameters = list(streams_of(model).parameters())
    if not parameters:
        # Value rotation without f_η: the angle is all there is.
        after.modules.config.num_streams += 2
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=3.0)
    second = run(model, hooks, after, ids, use_cache=True)
    assert torch.equal(first.logits, second.logits)
    for a, b in zip(first.past_key_values.layers, second.past_key_values.layers, strict=True):
        assert torch.equal(a.keys[:, :, :LENGTH], b.keys[:, :, :LENGTH])
        assert torch.equal(a.values[:, :, :LENGTH], b.values[:, :, :LENGTH])
    assert (before.streams - after.streams).abs().max() > 0.1


@over_architectures(**FORMS)
def test_removed_hooks_leave_the_model_as_before(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    base = model.get_base_model()
    previous = base.config._attn_implementation
    hooked = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    plain = run(model, ids=ids).logits
    hooks, plan = StreamHooks(model), plan_for(model)
    assert base.config._attn_implementation == attention.IMPLEMENTATION != previous
    run(model, hooks, plan, ids)
    hooks.remove()
    assert base.config._attn_implementation == previous
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooked
    late = plan_for(model)
    assert torch.equal(run(model, hooks, late, ids).logits, plain)
    assert late.streams is None


# --- what cannot work is refused ---


def test_opt_with_layerdrop_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match=r"layerdrop=0.1.*set config.layerdrop=0"):
        StreamHooks(TINY["opt"](layerdrop=0.1))


@pytest.mark.parametrize("layers", [LAYERS, LAYERS + 1])
def test_streams_above_no_layer_are_refused(architecture, layers):
    model = with_adapter(TINY[architecture]())
    with pytest.raises(ConfigError, match=rf"num_msa_layers={layers}: the base has 4 layers.*from 1 to 3"):
        attach_streams(model, StreamConfig(GAMMA, layers))


def test_no_stream_layer_is_refused():
    with pytest.raises(ConfigError, match="num_msa_layers=0: streams need at least one layer"):
        StreamConfig(GAMMA, 0).check_streams()
