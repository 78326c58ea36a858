"""Attention of stream rows in training against one dense mask over everything, in values and gradients."""

import pytest
import torch
from transformers.integrations.sdpa_attention import repeat_kv

from ssft.streams import attention
from ssft.streams.attention import dense_mask, stream_attention
from ssft.streams.plan import StreamPlan

BATCH, HEADS, KEY_HEADS, WIDTH, ROWS, GAMMA = 2, 6, 2, 8, 13, 3
SOURCES = torch.tensor([[3, 4, 5, 0, 0], [2, 7, 8, 9, 12]])


class Whole:
    """Stream parameters that leave attention as it is."""

    rotates = False


def naive(query, key, value, mask, scaling, softcap):
    """Stream rows [B, S·γ, H, D]: a softmax over every score of a row, those that it does not see at -inf."""
    key, value = (repeat_kv(tensor, HEADS // KEY_HEADS) for tensor in (key, value))
    query, mask = query[:, :, ROWS:], mask[:, :, ROWS:]
    scores = query @ key.transpose(2, 3) * (WIDTH**-0.5 if scaling is None else scaling)
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    return (scores.masked_fill(mask < 0, -torch.inf).softmax(dim=-1) @ value).transpose(1, 2)


def padded(kind):
    """A model's own mask whose first row has two rows of padding on the left; None where it makes none."""
    if kind == "none":
        return None
    seen = torch.ones(ROWS, ROWS, dtype=torch.bool).tril().repeat(BATCH, 1, 1, 1)
    seen[0, :, :, :2] = False
    least = torch.finfo(torch.float64).min
    return seen if kind == "bool" else torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, least)


@pytest.mark.parametrize("sources", [None, 1, 2])
@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
@pytest.mark.parametrize(("scaling", "softcap"), [(None, None), (0.3, None), (None, 5.0)])
def test_streams_attend_as_under_one_dense_mask(kind, scaling, softcap, sources, monkeypatch):
    if sources:
        monkeypatch.setattr(attention, "sources_per_chunk", lambda scores: sources)
    torch.manual_seed(0)
    rows = ROWS + SOURCES.shape[1] * GAMMA
    shapes = [(BATCH, heads, rows, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    plan, mask = StreamPlan(Whole(), SOURCES, GAMMA, frozen_main=True, num_main=ROWS), padded(kind)
    dense = dense_mask(plan, mask, torch.float64)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = HEADS // KEY_HEADS, True
    given = {"scaling": scaling, "softcap": softcap, "stream_plan": plan}
    found = stream_attention(module, *tensors, mask, **given)[0][:, ROWS:]
    expected = naive(*tensors, dense, scaling, softcap)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(expected.sin().sum(), tensors)
    for left, right in zip(torch.autograd.grad(found.sin().sum(), tensors), wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
        assert left.abs().max() > 0.1
