"""`LoraWeights` mean what peft makes of the same folder, in one buffer per device."""

import pytest
import torch
from adapter_folders import change_config, change_tensors, check_equals_peft, fitted, peft_folder, tiny_gpt2
from conftest import TINY, tiny_llama
from covering import over_architectures
from peft import LoraConfig, get_peft_model
from tiny_base import save_tiny_base

from ssft.base.fingerprint import base_fingerprint
from ssft.base.linear import is_linear
from ssft.base.load import load_base
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_bundle
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError
from ssft.lora import weights as module_under_test
from ssft.lora.weights import LoraWeights
from ssft.streams.config import StreamConfig
from ssft.streams.modules import attach_streams

CPU, META = torch.device("cpu"), torch.device("meta")
MODULE = "model.layers.1.self_attn.q_proj"


CASES = {
    "plain": {},
    "patterns": {
        "rank_pattern": {r"layers\.[01]\..*q_proj": 2, "v_proj": 8, "up_proj|fc1": 3},
        "alpha_pattern": {r"layers\.\d+\.self_attn\.(k|v)_proj": 3.5, "q_proj": 1},
    },
    "rank-stabilised": {"use_rslora": True, "rank_pattern": {"q_proj": 9}},
    "some modules": {"target_modules": ["q_proj", "v_proj"]},
    "some layers": {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1, 3]},
    "one layer": {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": 2, "layers_pattern": "layers"},
    "regular expression": {"target_modules": r".*\.(0|2)\..*(q|k)_proj"},
    "excluded": {"exclude_modules": ["v_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "minor components": {"init_lora_weights": "mica"},
    "random": {"init_lora_weights": False},
}


@over_architectures(pairs=False, case=sorted(CASES))
def test_the_sum_is_what_peft_computes(architecture, case, tmp_path):
    folder = peft_folder(tmp_path / "adapter", TINY[architecture](), **CASES[case])
    check_equals_peft(folder, TINY[architecture])


def test_the_sum_is_what_peft_computes_on_conv1d(tmp_path):
    folder = peft_folder(tmp_path / "adapter", tiny_gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    weights = check_equals_peft(folder, tiny_gpt2)
    layer = weights.layers["transformer.h.0.attn.c_attn"]
    assert (layer.down.shape, layer.up.shape) == ((4, 64), (192, 4))


def test_conv1d_of_another_shape_is_named(tmp_path):
    folder = peft_folder(tmp_path / "adapter", tiny_gpt2(), target_modules=["c_attn"], fan_in_fan_out=True)
    change_tensors(folder, lambda t: {k: v[:64].contiguous() if "lora_B" in k else v for k, v in t.items()})
    with pytest.raises(BundleError, match=r"c_attn\.lora_B\.weight has shape \(64, 4\), the base needs \(192, 4\)"):
        fitted(folder, tiny_gpt2())


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_targets_that_peft_fills_in(folder, targets):
    """peft resolves these when it saves; a config written by hand may still have them."""
    if targets is None:
        change_tensors(folder, lambda t: {k: v for k, v in t.items() if "q_proj" in k or "v_proj" in k})
    change_config(folder, target_modules=targets)
    weights = check_equals_peft(folder, tiny_llama)
    assert len(weights.layers) == (8 if targets is None else 28)


def test_a_lora_of_another_architecture_is_refused(folder):
    with pytest.raises(BundleError, match="which the base does not have; the adapter was made for another"):
        fitted(folder, TINY["opt"]())


# -- memory -----------------------------------------------------------------------------------------------------


def tensors_of(weights):
    return [tensor for layer in weights.layers.values() for tensor in (layer.down, layer.up)]


def test_all_tensors_of_a_device_share_one_buffer_of_their_own_size(tmp_path):
    # Rank 3 on 2 kv heads: sizes that are no multiples of 16 bytes are among them.
    folder = peft_folder(tmp_path / "adapter", tiny_llama(), r=3, rank_pattern={"q_proj": 5})
    bundle = read_bundle(folder)
    weights = LoraWeights.from_bundle(bundle, tiny_llama())
    tensors = tensors_of(weights)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert weights.nbytes == sum(tensor.nbytes for tensor in tensors) == tensors[0].untyped_storage().nbytes()
    assert weights.nbytes == 4 * bundle.loras[0].parameters
    for name, layer in weights.layers.items():
        assert torch.equal(layer.down, bundle.loras[0].weights[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(layer.up, bundle.loras[0].weights[f"base_model.model.{name}.lora_B.weight"])
        assert layer.down.is_contiguous()
        assert layer.up.T.is_contiguous()


def test_tensors_start_at_whole_blocks_wherever_they_can(tmp_path):
    """At rank 3 and a width of 90, A or B has 3·90·4 bytes, no multiple of 16; none of those may stand first."""
    folder = peft_folder(
        tmp_path / "adapter",
        tiny_llama(intermediate_size=90),
        torch.bfloat16,
        r=3,
        target_modules=["q_proj", "up_proj"],
    )
    weights = LoraWeights.from_bundle(read_bundle(folder), tiny_llama(intermediate_size=90).bfloat16())
    whole = [tensor for tensor in tensors_of(weights) if tensor.nbytes % 16 == 0]
    assert 0 < len(whole) < len(tensors_of(weights))
    assert all(tensor.storage_offset() * 4 % 16 == 0 for tensor in whole)


def test_nothing_of_the_bundle_is_kept(folder):
    bundle = read_bundle(folder)
    weights = LoraWeights.from_bundle(bundle, tiny_llama())
    before = [tensor.clone() for tensor in tensors_of(weights)]
    for tensor in bundle.loras[0].weights.values():
        tensor.zero_()
    bundle.release()
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(weights), before, strict=True))
    with pytest.raises(BundleError, match="was released from memory; read it again"):
        LoraWeights.from_bundle(bundle, tiny_llama())


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(("file", "base"), [(BF16, FP32), (FP32, BF16), (FP32, FP32), (FP16, BF16), (BF16, BF16)])
def test_a_cpu_holds_tensors_in_float32_which_it_multiplies_fastest(tmp_path, file, base):
    folder = peft_folder(tmp_path / "adapter", tiny_llama(), file, target_modules=["q_proj"])
    bundle = read_bundle(folder)
    weights = LoraWeights.from_bundle(bundle, tiny_llama().to(base))
    assert {weights.dtype} == {tensor.dtype for tensor in tensors_of(weights)} == {FP32}
    assert weights.nbytes == bundle.loras[0].parameters * 4
    if file == FP32:
        assert weights.nbytes <= bundle.weights_bytes < weights.nbytes + 4096, "more than the file's header is missing"


def test_narrow_tensors_on_a_wide_base_are_what_peft_computes(tmp_path):
    check_equals_peft(peft_folder(tmp_path / "adapter", tiny_llama(), BF16), tiny_llama)


def test_mixed_types_in_one_file_are_kept_as_the_widest(folder):
    change_tensors(folder, lambda t: {k: v.bfloat16() if "lora_A" in k else v for k, v in t.items()})
    assert LoraWeights.from_bundle(read_bundle(folder), tiny_llama()).dtype == FP32


def test_values_beyond_the_base_s_range_are_refused(folder):
    change_tensors(folder, lambda t: {k: v * 1e7 for k, v in t.items()})
    with pytest.raises(BundleError, match=r"beyond the range of torch\.float16.* --dtype bfloat16 or float32"):
        LoraWeights.from_bundle(read_bundle(folder), tiny_llama().half())


def test_four_bit_weights_do_not_decide_the_type(tmp_path):
    base = save_tiny_base(tmp_path / "base")
    folder = peft_folder(tmp_path / "adapter", load_base(base, dtype="float32")[0])
    model, _ = load_base(base, dtype="bfloat16", quantization="4bit", device="cpu")
    assert model.get_submodule(MODULE).weight.dtype == torch.uint8
    weights = LoraWeights.from_bundle(read_bundle(folder), model)
    assert weights.dtype == FP32
    assert weights.layers[MODULE].down.shape == (4, 64)


# -- moving -----------------------------------------------------------------------------------------------------


def two_devices(model, name):
    """Layers from the second half on stand on another device. Meta: it is in every build of torch."""
    return META if int(name.split(".")[2]) >= 2 else CPU


def test_on_the_cpu_moving_is_no_copy(folder):
    model = tiny_llama()
    weights = LoraWeights.from_bundle(read_bundle(folder), model)
    assert weights.to_host() is weights
    assert weights.to_devices(model) is weights


def test_every_device_has_one_buffer(folder, monkeypatch):
    bundle = read_bundle(folder)
    monkeypatch.setattr(module_under_test, "device_of", two_devices)
    weights = LoraWeights.from_bundle(bundle, tiny_llama())
    for device in (CPU, META):
        tensors = [
            tensor
            for name, layer in weights.layers.items()
            if two_devices(None, name) == device
            for tensor in (layer.down, layer.up)
        ]
        assert {tensor.device for tensor in tensors} == {device}
        assert len({tensor.untyped_storage()._cdata for tensor in tensors}) == 1
    assert weights.nbytes == 4 * bundle.loras[0].parameters
    assert sorted(buffer.device.type for buffer in weights.buffers) == ["cpu", "meta"]


def test_the_way_to_a_device_and_back_keeps_layout_and_bits(folder, monkeypatch):
    """Meta holds no numbers, so the copies go from the CPU to the CPU: what `to` returns is made a copy."""
    model, copies = tiny_llama(), []
    weights = LoraWeights.from_bundle(read_bundle(folder), model)
    before = [tensor.clone() for tensor in tensors_of(weights)]

    def copy(self, device):
        copies.append(self.numel())
        return self.clone()

    monkeypatch.setattr(torch.Tensor, "to", copy)
    host = weights.to_host()
    back = host.to_devices(model)
    monkeypatch.undo()
    assert copies == [weights.buffers[0].numel()] * 2, "one copy per buffer, each way"
    for moved in (host, back):
        assert moved is not weights
        assert (moved.nbytes, moved.dtype, list(moved.layers)) == (weights.nbytes, weights.dtype, list(weights.layers))
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(moved), before, strict=True))
        assert len({tensor.untyped_storage().data_ptr() for tensor in tensors_of(moved)}) == 1
        assert moved.layers[MODULE].scaling == weights.layers[MODULE].scaling == 2.0
    weights.buffers[0].zero_()
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(back), before, strict=True)), "host and device share memory"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_way_to_a_gpu_and_back_keeps_every_bit(folder):
    model = tiny_llama().cuda()
    weights = LoraWeights.from_bundle(read_bundle(folder), model)
    host = weights.to_host()
    back = host.to_devices(model)
    assert {t.device.type for t in tensors_of(weights)} == {t.device.type for t in tensors_of(back)} == {"cuda"}
    assert {t.device.type for t in tensors_of(host)} == {"cpu"}
    for a, b, c in zip(*map(tensors_of, (weights, host, back)), strict=True):
        assert torch.equal(a.cpu(), b)
        assert torch.equal(a, c)


def test_a_model_that_was_spread_anew_gets_new_buffers(folder, monkeypatch):
    model = tiny_llama()
    weights = LoraWeights.from_bundle(read_bundle(folder), model)
    assert len(weights.buffers) == 1
    monkeypatch.setattr(module_under_test, "device_of", two_devices)
    spread = weights.to_devices(model)
    assert len(spread.buffers) == 2
    assert spread.nbytes == weights.nbytes
    for name, layer in spread.layers.items():
        assert layer.down.device == two_devices(None, name)
        if layer.down.device == CPU:
            assert torch.equal(layer.down, weights.layers[name].down)
            assert torch.equal(layer.up, weights.layers[name].up)


def test_offloaded_weights_have_the_device_that_they_are_brought_to(folder):
    from accelerate import cpu_offload

    model = cpu_offload(tiny_llama(), execution_device=CPU)
    assert model.get_submodule(MODULE).weight.device == META
    weights = LoraWeights.from_bundle(read_bundle(folder), model)
    assert {tensor.device for tensor in tensors_of(weights)} == {CPU}


def test_a_model_without_weights_is_refused(folder):
    with torch.device("meta"):
        model = tiny_llama()
    with pytest.raises(BundleError, match="has no weights"):
        LoraWeights.from_bundle(read_bundle(folder), model)


def test_what_counts_as_linear():
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    linear = [torch.nn.Linear(2, 2), Linear4bit(2, 2), Linear8bitLt(2, 2), tiny_gpt2().transformer.h[0].attn.c_attn]
    assert all(map(is_linear, linear))
    assert not any(map(is_linear, [torch.nn.Embedding(2, 2), torch.nn.Conv1d(2, 2, 1), torch.nn.LayerNorm(2)]))


@pytest.mark.parametrize("mode", ["shared", "lossless"])
def test_the_mode_of_the_streams_is_known(tmp_path, mode):
    model, tokenizer = load_base(save_tiny_base(tmp_path / "base"), dtype="float32")
    fingerprint = base_fingerprint(model, tokenizer, "base")
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    attach_streams(peft_model, StreamConfig(num_streams=2, num_msa_layers=1, mode=mode))
    bundle = write_bundle(tmp_path / "adapter", peft_model, tree=TreeConfig(), base=fingerprint)
    weights = LoraWeights.from_bundle(bundle, load_base(tmp_path / "base", dtype="float32")[0])
    assert bool(weights.stream_layers) is (mode == "lossless")
    assert bool(weights.layers) is (mode == "shared")
    moved = weights.to_host()
    assert (moved.layers.keys(), moved.stream_layers.keys()) == (weights.layers.keys(), weights.stream_layers.keys())


def test_a_plain_lora_is_not_lossless(folder):
    assert LoraWeights.from_bundle(read_bundle(folder), tiny_llama()).stream_layers == {}
