"""A base is loaded in the type, the quantization and the place asked for, from safetensors only, and runs no code."""

import json
from contextlib import nullcontext
from copy import copy

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import _convert_weight_packed_for_cpu
from loopback_hub import connected_hub
from pickles import Payload
from word_base import save_word_base

from ssft.base import load as bases
from ssft.errors import BaseModelError, ConfigError


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_base_gives_the_dtype_asked_for(tiny_base, dtype):
    model, tokenizer = bases.load_base(tiny_base, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert not model.training
    assert tokenizer.eos_token == "</s>"


def test_auto_dtype_follows_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert bases.auto_dtype("cpu") == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert bases.auto_dtype("cpu") == torch.float32


def four_bit_layers(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "support_avx512bf16_for_cpu")}


# What bitsandbytes can pack: `out` a multiple of 32, `in` one of 64. The second and third have layers of both kinds.
PACKABLE = {
    "all": ({}, lambda name: True),
    "in": ({"intermediate_size": 96}, lambda name: "down_proj" not in name),
    "out": ({"intermediate_size": 112}, lambda name: "mlp" not in name),
    "none": ({"hidden_size": 48, "intermediate_size": 48}, lambda name: False),
}


@pytest.mark.parametrize("case", PACKABLE)
def test_bitsandbytes_packs_what_it_can_hold_and_what_computes_in_bfloat16(tmp_path, monkeypatch, case, auto):
    sizes, packable = PACKABLE[case]
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model, _ = bases.load_base(save_word_base(tmp_path / "base", **sizes), quantization="4bit", device="cpu")
    layers = four_bit_layers(model)
    assert len(layers) == 14
    for name, layer in layers.items():
        assert layer.support_avx512bf16_for_cpu == (auto == "bfloat16" and packable(name)), name
        # The installed bitsandbytes itself says so too; the repacking alone runs on any CPU.
        with nullcontext() if packable(name) else pytest.raises((RuntimeError, AssertionError)):
            _convert_weight_packed_for_cpu(layer.weight.data, copy(layer.weight.quant_state))


@pytest.mark.parametrize("case", PACKABLE)
def test_a_four_bit_base_computes_in_the_dtype_asked_for_on_every_cpu(tmp_path, packing, auto, case):
    sizes, packable = PACKABLE[case]
    folder = save_word_base(tmp_path / "base", **sizes)
    model, _ = bases.load_base(folder, quantization="4bit", device="cpu")
    assert str(model.dtype) == f"torch.{auto}"
    layers = four_bit_layers(model)
    weights = {
        f"{name}.weight": bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        for name, layer in layers.items()
    }
    # The same weights in float32: what is left is the precision that the layers compute in.
    dense, _ = bases.load_base(folder, dtype="float32", device="cpu")
    # Not strict: these are the packed layers' weights alone. All of them must have found their place.
    assert not dense.load_state_dict(weights, strict=False).unexpected_keys
    ids = torch.arange(2, 22).view(2, 10)
    with torch.no_grad():
        logits, expected = model(ids).logits.float(), dense(ids).logits
    for name, layer in layers.items():
        packed = getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
        assert packed == (packing and auto == "bfloat16" and packable(name)), name
    error = (logits - expected).abs().max() / expected.abs().max()
    assert error < (1e-6 if auto == "float32" else 0.02)


def test_device_cpu_and_attention_are_passed_on(tiny_base):
    model, _ = bases.load_base(tiny_base, dtype="float32", device="cpu", attn_implementation="eager")
    assert model.device.type == "cpu"
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"dtype": "float8"}, "dtype 'float8' is unknown"),
        ({"quantization": "8bit"}, "quantization '8bit' is unknown"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"device": "xpu"}, "device 'xpu' is not available here"),
    ],
)
def test_a_bad_setting_is_an_error_before_anything_is_loaded(setting, text):
    with pytest.raises(ConfigError, match=text):
        bases.load_base("no/such-base", **setting)


def test_a_folder_that_does_not_load_gives_cause_and_knob(tmp_path):
    folder = save_word_base(tmp_path / "base")
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(BaseModelError, match=r"(?s)cannot be loaded with dtype=float32.*Check the folder's files"):
        bases.load_base(folder, dtype="float32")


def test_a_folder_with_a_pickle_alone_is_refused_unopened(tmp_path):
    folder = save_word_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(tmp_path / "marker")}, folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"loads bases from safetensors only.*again with save_pretrained"):
        bases.load_base(folder, dtype="float32")
    assert not (tmp_path / "marker").exists()


def test_a_repository_with_a_pickle_alone_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")
    folder = save_word_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(tmp_path / "marker")}, folder / "pytorch_model.bin")
    (tmp_path / "home").mkdir()
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        hub.create("alice/base", {path.name: path.read_bytes() for path in folder.iterdir()})
        with pytest.raises(BaseModelError, match=r"(?s)never from a pickle \(\.bin\).*save_pretrained, and give that"):
            bases.load_base("alice/base", dtype="float32")
        assert hub.requests("GET", r"config\.json")
        assert not hub.requests("GET", r"pytorch_model\.bin")
    assert not (tmp_path / "marker").exists()


def test_code_that_comes_with_a_base_is_never_run(tmp_path):
    folder = save_word_base(tmp_path / "base")
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    trust = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": trust}))
    with pytest.raises(
        BaseModelError, match=r"ssft runs no code that comes with a base\. Give a base whose architectu"
    ):
        bases.load_base(folder, dtype="float32")
    assert not (tmp_path / "marker").exists()
