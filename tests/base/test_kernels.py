"""Fast linear layers: the same model, packed and given back; and shapes in which a row's bits are its own."""

import copy
import gc
import weakref

import pytest
import torch
from conftest import tiny_llama, tiny_mistral, tiny_opt
from torch import nn

from ssft.base.kernels import products
from ssft.base.kernels.linears import FastLinears, kernel_bytes, packed_device, siblings
from ssft.base.kernels.products import Dense, Packed, Separate, can_pack, product_of
from ssft.base.kernels.shapes import KEYS, ROWS, Shapes, short_spans
from ssft.lora.memory import base_bytes

IDS = torch.tensor([[5, 9, 3, 17, 4], [2, 2, 8, 1, 0]])
FAMILIES = pytest.mark.parametrize("make", [tiny_llama, tiny_mistral, tiny_opt], ids=lambda make: make.__name__)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@FAMILIES
def test_modules_that_are_given_one_tensor_are_found(make):
    groups = siblings(make())
    kinds = [tuple(name.rpartition(".")[2] for name in group) for group in groups[:4]]
    feed_forward = [("fc1",), ("fc2",)] if make is tiny_opt else [("gate_proj", "up_proj"), ("down_proj",)]
    out = "out_proj" if make is tiny_opt else "o_proj"
    assert kinds == [("q_proj", "k_proj", "v_proj"), (out,), *feed_forward]
    assert groups[-1] == ("lm_head",)


@FAMILIES
@DTYPES
def test_the_model_is_the_same_and_comes_back_whole(make, dtype):
    model = make().to(dtype).eval()
    expected, weights = logits(model), copy.deepcopy(model.state_dict())
    linears = FastLinears(model)
    found = logits(model)
    kinds = {type(group.product) for group in linears.groups}
    assert kinds == {Dense if dtype == torch.float16 else Packed}
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}[dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    linears.remove()
    assert torch.equal(logits(model), expected)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert kernel_bytes(model) == 0


def test_dense_weights_are_let_go_and_counted_once():
    model = tiny_llama(tie_word_embeddings=True).eval()
    before = base_bytes(model)
    dense = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    linears = FastLinears(model)
    gc.collect()
    assert dense() is None
    head = model.lm_head.weight
    assert head is model.model.embed_tokens.weight, "the embedding needs it dense"
    assert base_bytes(model) == before + head.nbytes
    assert packed_device(model.model.layers[0].mlp.up_proj) == torch.device("cpu")
    assert packed_device(model.model.embed_tokens) is None
    assert model.device.type == "cpu"
    linears.remove()
    assert base_bytes(model) == before


def test_a_copy_shares_the_packed_weights_until_it_gets_its_own():
    model = tiny_llama().eval()
    expected = logits(model)
    linears = FastLinears(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    linears.restore(twin)
    assert torch.equal(logits(twin), expected)
    assert kernel_bytes(twin) == 0 < kernel_bytes(model)


def test_members_may_be_called_in_any_order_and_with_other_inputs():
    """An input between two calls of a group's members, such as another thread's, changes nothing."""
    model = tiny_llama().eval()
    attention = model.model.layers[0].self_attn
    x, other = torch.randn(2, 3, 64), torch.randn(2, 3, 64)
    with torch.inference_mode():
        expected = [module(x) for module in (attention.q_proj, attention.k_proj, attention.v_proj)]
        FastLinears(model)
        v = attention.v_proj(x)
        q = attention.q_proj(x)
        attention.q_proj(other)
        found = [q, attention.k_proj(x), v]
    torch.testing.assert_close(found, expected)


def test_modules_of_two_types_or_with_a_hook_of_accelerate_compute_by_themselves():
    a, b = nn.Linear(8, 4), nn.Linear(8, 6).bfloat16()
    assert isinstance(product_of([a, b]), Separate)
    model = tiny_llama()
    hooked = model.model.layers[1].self_attn.k_proj
    hooked.forward = hooked.forward  # what accelerate does to bring weights to a device
    names = {name for group in siblings(model) for name in group}
    assert "model.layers.1.self_attn.k_proj" not in names
    assert "model.layers.1.self_attn.q_proj" in names


def test_a_layer_that_some_have_a_bias_in():
    a, b = nn.Linear(8, 4, bias=False), nn.Linear(8, 6)
    x = torch.randn(3, 8)
    for product in (Dense([a, b]), Separate([a, b]), Packed([a, b])):
        torch.testing.assert_close(product(x), torch.cat((a(x), b(x)), dim=-1))


def test_where_packing_fails_it_is_said_once_and_weights_stay_dense(monkeypatch, caplog):
    def missing(*_):
        raise NotImplementedError("no such operator here")

    monkeypatch.setattr(products.Packed, "__call__", missing)
    can_pack.cache_clear()
    try:
        model = tiny_llama().eval()
        expected = logits(model)
        linears = FastLinears(model)
        assert {type(group.product) for group in linears.groups} == {Dense}
        torch.testing.assert_close(logits(model), expected)
    finally:
        can_pack.cache_clear()
    (record,) = caplog.records
    assert (
        "float32 weights cannot be packed for oneDNN here (no such operator here); passes take longer" in record.message
    )


# -- bits -------------------------------------------------------------------------------------------------------


def test_shapes_are_for_bfloat16_on_a_cpu():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert Shapes.of(torch.bfloat16, cpu, 16).exact
    for dtype, device in ((torch.float32, cpu), (torch.float16, cpu), (torch.bfloat16, cuda)):
        assert Shapes.of(dtype, device, 16) == Shapes(1, 1)
    shapes = Shapes(ROWS, KEYS, (64, 192))
    spans = {1: 64, 64: 64, 65: 192, 193: KEYS, KEYS: KEYS, KEYS + 1: 2 * KEYS}
    assert {keys: shapes.span(keys) for keys in spans} == spans
    assert Shapes().span(37) == 37


def test_short_spans_are_those_that_add_as_a_whole_block_does(monkeypatch):
    """A kernel that cuts its sums at other places gives other bits, and the span is left out."""
    real = torch.nn.functional.scaled_dot_product_attention

    def cut(query, key, value, mask):
        out = real(query, key, value, mask)
        return out * 1.01 if key.shape[2] == 128 else out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", cut)
    short_spans.cache_clear()
    try:
        assert 128 not in short_spans(16)
    finally:
        short_spans.cache_clear()
