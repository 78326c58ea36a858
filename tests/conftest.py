"""Tiny random models of every supported architecture, built from configs: no network, no files."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores; with one thread each they do not wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from embedded_base import check_base
from loopback_hub import connected_hub
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM

from ssft.decoding.budget import cost
from ssft.streams.config import StreamConfig
from ssft.streams.modules import attach_streams

VOCABULARY = 61
LAYERS = 4


def tiny_llama(seed=0, **changes):
    torch.manual_seed(seed)
    config = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
    }
    return LlamaForCausalLM(LlamaConfig(**{**config, **changes})).eval()


def tiny_mistral(seed=0, **changes):
    torch.manual_seed(seed)
    config = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "sliding_window": None,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
    }
    return MistralForCausalLM(MistralConfig(**{**config, **changes})).eval()


def tiny_opt(seed=0, **changes):
    torch.manual_seed(seed)
    config = {
        "hidden_size": 64,
        "ffn_dim": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 512,
        "word_embed_proj_dim": 64,
        "init_std": 0.25,
        "dropout": 0.0,
        "layerdrop": 0.0,
        "tie_word_embeddings": False,
    }
    return OPTForCausalLM(OPTConfig(**{**config, **changes})).eval()


TINY = {"llama": tiny_llama, "mistral": tiny_mistral, "opt": tiny_opt}
ARCHITECTURES = sorted(TINY)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    """Name of every architecture that a tiny model exists for."""
    return request.param


def with_adapter(model, stream_config=None, seed=1, rank=4, scale=0.2, targets="all-linear"):
    """A PeftModel whose LoRA is no identity (B is random, not zero), with streams if a config is given."""
    torch.manual_seed(seed)
    peft_model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale / rank**0.5)
    if stream_config is not None:
        modules = attach_streams(peft_model, stream_config)
        for parameter in modules.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return peft_model.eval()


@pytest.fixture(scope="session", autouse=True)
def costs_of_tiny_models(tmp_path_factory):
    """What passes of tiny models cost is measured in a moment, and kept apart from what the user's own models cost."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "cache_dir", lambda: Path(os.environ.get("SSFT_CACHE", folder)))
        patch.setattr(cost, "SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def embedded_base():
    """Skips, or is an error, where the embedded base is not fetched."""
    check_base()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback, whose home is an empty folder; it is the only one that is there."""
    with connected_hub(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def stream_config():
    return StreamConfig(num_streams=3, num_msa_layers=2)


@pytest.fixture(params=["float32", "bfloat16"])
def auto(request, monkeypatch):
    """The type that `auto` is on the CPU, once each, whatever this CPU computes natively."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param == "bfloat16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return request.param


@pytest.fixture(params=[False, True], ids=["unpacked", "packed"])
def packing(request, monkeypatch):
    """Whether bitsandbytes packs the 4-bit weights of a model loaded in the test, once each, as the CPU allows."""
    from bitsandbytes.functional import has_avx512bf16

    if request.param and not has_avx512bf16():
        pytest.skip("bitsandbytes has its kernel for packed weights only on a CPU with AVX512-BF16")
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: request.param)
    return request.param


def random_ids(batch, length, seed=0):
    """[batch, length] token ids without the special ones at the vocabulary's start."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(4, VOCABULARY, (batch, length), generator=generator)


def pytest_configure(config):
    """PEFT asks every model it wraps for an attribute that transformers 5.23 renamed."""
    config.addinivalue_line("filterwarnings", "ignore:.?is_gradient_checkpointing.? is deprecated:FutureWarning")


def pytest_collection_finish():
    """The libraries' half a million objects stay: the collector, which every training calls, has no need to look at
    them again."""
    gc.freeze()
