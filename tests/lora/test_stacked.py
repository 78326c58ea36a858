"""`add_products`: what the LoRA of the text and that of the streams' own add to the rows of a pass."""

import pytest
import torch

from ssft.lora.stacked import StackedLora, add_products

MAIN, STREAMS, INNER, OUTER = 3, 4, 8, 12


def random_lora(seed, scalings):
    """Two modules beside each other with an input in common, and their weights."""
    draw = torch.Generator().manual_seed(seed)
    bounds = ((0, 8), (8, OUTER))
    layers = [
        (
            columns,
            torch.randn(2, INNER, generator=draw),
            torch.randn(columns[1] - columns[0], 2, generator=draw),
            scaling,
        )
        for columns, scaling in zip(bounds, scalings, strict=True)
    ]
    return StackedLora(layers, OUTER), layers


def products(x, layers):
    """What those modules add to rows x [.., INNER], module by module."""
    return torch.cat([scaling * x @ down.T @ up.T for _, down, up, scaling in layers], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scalings", [(2.0, 2.0), (2.0, 0.5)], ids=str)
@pytest.mark.parametrize("of_text", [True, False])
def test_own_products_reach_the_stream_rows_alone(dtype, batch, scalings, of_text):
    own, own_layers = random_lora(1, scalings)
    text, text_layers = random_lora(2, scalings) if of_text else (None, [])
    x = torch.randn(batch, MAIN + STREAMS, INNER).to(dtype)
    out = torch.randn(batch, MAIN + STREAMS, OUTER).to(dtype)
    with_text = out.float() + products(x.float(), text_layers) if of_text else out.float()
    expected = with_text.clone()
    expected[:, MAIN:] += products(x[:, MAIN:].float(), own_layers)
    assert (expected - with_text)[:, MAIN:].abs().mean() > 0.1
    without = out.clone()
    add_products(x, out, text, own, MAIN)
    near = {"rtol": 2e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(out.float(), expected, **near)
    if text is not None:
        add_products(x, without, text, None, MAIN)
    assert torch.equal(out[:, :MAIN], without[:, :MAIN]), "the main rows have other bits with streams beside them"
