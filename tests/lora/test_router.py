"""The router: products of the right adapter on the right rows, nothing outside, whatever the module's input shape."""

import threading

import pytest
import torch
from conftest import tiny_opt
from torch import nn

from ssft.lora.router import LoraRouter
from ssft.lora.weights import LoraLayer, LoraWeights
from ssft.streams.passes import Pass, announced

IN, OUT = 6, 10


def running(adapters):
    return announced(Pass(adapters=adapters))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(IN, OUT)
        self.other = nn.Linear(IN, OUT)
        self.norm = nn.LayerNorm(IN)


def lora(seed, rank, name="proj", dtype=torch.float32, scaling=0.5):
    torch.manual_seed(seed)
    layer = LoraLayer(torch.randn(rank, IN).to(dtype), torch.randn(OUT, rank).to(dtype), scaling)
    return LoraWeights({(name, False): layer}, dtype, [], [[(name, False)]])


def product(weights, x):
    (layer,) = weights.layers.values()
    return layer.scaling * (x @ layer.down.float().T) @ layer.up.float().T


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("flat", [False, True], ids=["[B, R, in]", "[B·R, in]"])
@torch.inference_mode()
def test_each_row_gets_its_own_product(model, flat):
    a, b = lora(1, 2), lora(2, 4, dtype=torch.bfloat16)
    rows = [a, a, None, b, a]
    x = torch.randn(len(rows), 3, IN)
    given = x.view(-1, IN) if flat else x
    base = model.proj(given)
    LoraRouter(model)
    with running(rows):
        found = model.proj(given)
        assert torch.equal(model.other(given), nn.functional.linear(given, model.other.weight, model.other.bias))
    assert torch.equal(model.proj(given), base)
    expected = base.view(len(rows), 3, OUT).clone()
    for row, weights in enumerate(rows):
        expected[row] += 0 if weights is None else product(weights, x[row])
    torch.testing.assert_close(found.view(len(rows), 3, OUT), expected)
    assert torch.equal(found.view(len(rows), 3, OUT)[2], base.view(len(rows), 3, OUT)[2])


@torch.inference_mode()
def test_uses_nest_and_end(model):
    a, b, x = lora(1, 2), lora(2, 4), torch.randn(1, 2, IN)
    router, base = LoraRouter(model), model.proj(x)
    with running([a]):
        first = model.proj(x)
        with running([b]):
            assert not torch.equal(model.proj(x), first)
        with running([None]):
            assert torch.equal(model.proj(x), base)
        assert torch.equal(model.proj(x), first)
    with pytest.raises(ZeroDivisionError), running([a]):
        raise ZeroDivisionError
    assert torch.equal(model.proj(x), base)
    router.remove()
    with running([a]):
        assert torch.equal(model.proj(x), base)


@torch.inference_mode()
def test_threads_do_not_see_each_others_adapters(model):
    a, x = lora(1, 2), torch.randn(1, 2, IN)
    LoraRouter(model)
    base, found = model.proj(x), []
    with running([a]):
        # Inference mode is a thread's own, too.
        thread = threading.Thread(target=torch.inference_mode()(lambda: found.append(model.proj(x))))
        thread.start()
        thread.join()
        assert not torch.equal(model.proj(x), base)
    assert torch.equal(found[0], base)


def test_every_linear_module_of_a_model_is_covered():
    model = tiny_opt()
    router = LoraRouter(model)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert all(module._forward_hooks for module in linear)
    assert len(router._handles) == len(linear)
    router.remove()
    assert not any(module._forward_hooks for module in model.modules())
