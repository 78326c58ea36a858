"""The router: products of the right adapter on the right rows, nothing outside, whatever the module's input shape."""

import threading

import pytest
import torch
from adapter_folders import peft_folder
from conftest import tiny_llama, tiny_opt
from torch import nn

from ssft.base.kernels.linears import FastLinears
from ssft.bundle.read import read_bundle
from ssft.lora.router import LoraRouter, router_on
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


def lora(seed, rank, *names, scalings=(0.5, 0.5, 0.5)):
    torch.manual_seed(seed)
    keys = [(name, False) for name in names or ("proj",)]
    layers = [LoraLayer(torch.randn(rank, IN), torch.randn(OUT, rank), scaling) for scaling in scalings[: len(keys)]]
    return LoraWeights(dict(zip(keys, layers, strict=True)), torch.float32, [], [keys])


def product(weights, x, name="proj"):
    layer = weights.layers.get(name)
    return 0 if layer is None else layer.scaling * (x @ layer.down.T) @ layer.up.T


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("flat", [False, True], ids=["[B, R, in]", "[B·R, in]"])
@torch.inference_mode()
def test_each_row_gets_its_own_product(model, flat):
    a, b = lora(1, 2), lora(2, 4)
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


class Siblings(nn.Module):
    """Three modules with one input, as q, k and v have it, and what `FastLinears` asks of a model."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.proj, self.other, self.third = (nn.Linear(IN, OUT) for _ in range(3))
        self.embed = nn.Embedding(5, IN)

    def get_output_embeddings(self):
        return self.third

    def forward(self, input_ids, use_cache=None):
        return self.run(self.embed(input_ids))

    def run(self, x):
        return torch.stack([self.proj(x), self.other(x), self.third(x)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 3, 4])
@torch.inference_mode()
def test_modules_with_one_input_get_each_their_own_product(dtype, length):
    """One adapter on all three, one on two with a scaling each, one on a single module, and a bare row."""
    torch.manual_seed(0)
    model = Siblings().to(dtype)
    names = ("proj", "other", "third")
    a, b, c = lora(1, 2, *names), lora(2, 4, "proj", "third", scalings=(0.5, 2.0)), lora(3, 3, "other")
    rows = [a, a, None, b, c]
    x = torch.randn(len(rows), length, IN).to(dtype)
    expected = model.run(x).float()
    for place, name in enumerate(names):
        for row, weights in enumerate(rows):
            expected[place, row] += 0 if weights is None else product(weights, x[row].float(), name)
    linears = FastLinears(model)
    assert [group.names for group in linears.groups] == [names]
    router = LoraRouter(model, linears.groups)
    assert router_on(model) is router
    bare = model.run(x)
    with running(rows):
        found = model.run(x)
    assert torch.equal(found[:, 2], bare[:, 2])
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found.float(), expected, **tolerance)
    router.remove()
    with running(rows):
        assert torch.equal(model.run(x), bare)


def test_the_a_of_neighbours_are_one_matrix_without_a_copy(tmp_path):
    folder = peft_folder(tmp_path / "adapter", tiny_llama(), target_modules=["q_proj", "k_proj", "v_proj"])
    weights = LoraWeights.from_bundle(read_bundle(folder), tiny_llama())
    names = tuple(f"model.layers.0.self_attn.{kind}_proj" for kind in "qkv")
    stack = weights.stacked(names, [(0, 64), (64, 96), (96, 128)])
    assert stack.down_t.untyped_storage().data_ptr() == weights.buffers[0].data_ptr()
    downs = sorted((weights.layers[name].down for name in names), key=lambda down: down.storage_offset())
    assert torch.equal(stack.down_t.T, torch.cat(downs))


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
