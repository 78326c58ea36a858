"""The gradients of the streams' parameters: all have one, and neither chunks nor checkpoints change it."""

import torch
from conftest import random_ids
from covering import over_architectures
from inserted_streams import FORMS, GAMMA, IDENTIFIERS, LENGTH, build, close, plan_for

from ssft.streams import attention
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.passes import Pass, announced


def gradients(model, hooks, ids, mask=None):
    """Loss over main rows and streams, and the gradient of every trainable parameter."""
    model.zero_grad()
    plan = plan_for(model, batch=ids.shape[0])
    with announced(Pass(plan)):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss = logits.square().mean() + plan.streams.square().mean()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return loss.detach(), found


def assert_same_gradients(a, b):
    assert a.keys() == b.keys()
    assert all(grad.abs().max() > 0 for grad in a.values())
    for name in a:
        close(a[name], b[name], tolerance=1e-4)


@over_architectures(**FORMS, padded={"whole": False, "padded": True})
def test_chunks_change_neither_values_nor_gradients(architecture, config, padded, monkeypatch):
    ids = random_ids(2, LENGTH)
    mask = torch.tensor([[0, 0, *[1] * (LENGTH - 2)], [1] * LENGTH]) if padded else None
    model = build(architecture, config)
    hooks = StreamHooks(model)
    whole, expected = gradients(model, hooks, ids, mask)
    for sources in (1, 2):
        monkeypatch.setattr(attention, "sources_per_chunk", lambda scores, sources=sources: sources)
        parts, found = gradients(model, hooks, ids, mask)
        torch.testing.assert_close(parts, whole)
        assert_same_gradients(expected, found)


@over_architectures(identifier=IDENTIFIERS)
def test_every_stream_parameter_gets_a_gradient(architecture, identifier):
    config = StreamConfig(GAMMA, 2, identifier, 2)
    model = build(architecture, config)
    _, found = gradients(model, StreamHooks(model), random_ids(1, LENGTH))
    names = [name.rsplit(".", 1)[-1] for name in found if "ssft_streams" in name]
    expected = {"projection_down", "projection_up"} | ({"stream_embeddings"} if identifier == "embedding" else set())
    assert set(names) == expected


@over_architectures(**FORMS, sources={"one_chunk": None, "chunks": 1})
def test_checkpointed_layers_have_the_same_gradients(architecture, config, chunks):
    ids = random_ids(2, LENGTH)
    model = build(architecture, config).train()
    hooks = StreamHooks(model)
    loss, expected = gradients(model, hooks, ids)
    base = model.get_base_model()
    runs = []
    base.get_decoder().layers[-1].self_attn.register_forward_hook(lambda *_: runs.append(1))
    base.activation_checkpointing_enable({"use_reentrant": False})
    again, found = gradients(model, hooks, ids)
    assert len(runs) == 2  # forward and recomputation: checkpointing was on
    assert torch.equal(loss, again)
    assert_same_gradients(expected, found)
