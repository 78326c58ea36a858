"""Tiny random models of the architectures that ssft is tested with: a row each, of a config and what is special in it.

Windows are shorter than the trees and prompts of the tests, and weights are large, so that a row that sees one token
too many says something else.
"""

from collections import Counter

import torch
from conftest import LAYERS, VOCABULARY
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

PLAIN = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 6
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}


def _rope(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


ORIGINAL = {"original_max_position_embeddings": 64}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}

ARCHITECTURES = {
    "llama": ("llama", {}),
    "llama-linear": ("llama", _rope("linear", factor=4.0)),
    "llama-dynamic": ("llama", _rope("dynamic", factor=4.0)),
    "llama-yarn": ("llama", _rope("yarn", factor=4.0, **ORIGINAL)),
    "llama-llama3": ("llama", _rope("llama3", factor=4.0, **LLAMA3)),
    "mistral": ("mistral", {"sliding_window": WINDOW, "head_dim": 24}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2": ("qwen2", {"use_sliding_window": True, **MIXED}),
    "qwen3": ("qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
    "qwen3_moe": ("qwen3_moe", {"head_dim": 16, "num_experts": 4, **MOE}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0] * (LAYERS // 2)}),
    "gemma": ("gemma", {"head_dim": 24, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", {"head_dim": 24, "query_pre_attn_scalar": 40, "final_logit_softcapping": 5.0, **MIXED}),
    "gemma3_text": ("gemma3_text", {"head_dim": 24, "query_pre_attn_scalar": 40, **MIXED}),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {"sliding_window": WINDOW}),
    "olmo2": ("olmo2", {}),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "logits_scaling": 4.0, "residual_multiplier": 0.6, "attention_multiplier": 0.2},
    ),
    "cohere2": ("cohere2", {"logit_scale": 0.25, "tie_word_embeddings": True, **MIXED}),
    "gpt_neox": ("gpt_neox", {"use_parallel_residual": True}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 512}),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW, "use_bias": True}),
    "stablelm": ("stablelm", {"use_qkv_bias": True, "use_parallel_residual": True, "qk_layernorm": True}),
    "opt": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 48, "init_std": 0.25}),
    "falcon": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False, "bias": True}),
}

KINDS = {
    "plain": {"llama", "olmo2", "gemma"},
    "layers without rope": {"smollm3"},
    "scaled": {"granite", "cohere2", "gemma3_text"},
    "soft caps": {"gemma2"},
    "windows": {"mistral", "qwen2", "gemma2", "gemma3_text", "phi3", "cohere2", "starcoder2"},
    "tied head": {"qwen3", "cohere2"},
    "fused q|k|v": {"phi3", "gpt2", "gpt_neox", "falcon"},
    "parallel block": {"phi", "gpt_neox", "falcon", "stablelm", "cohere2"},
    "partial rotary": {"phi", "gpt_neox", "stablelm"},
    "learned positions": {"gpt2", "opt"},
    "experts": {"mixtral", "qwen3_moe"},
    "keywords kept back": {"falcon", "stablelm"},
}


def spread(features):
    """{feature: architectures}: every feature meets every kind of architecture, and all architectures take turns."""
    taken = Counter(dict.fromkeys(sorted(set().union(*KINDS.values())), 0))
    found = {}
    for feature in features:
        left, found[feature] = set(KINDS), []
        while left:
            meets = {name: sum(name in KINDS[kind] for kind in left) for name in taken}
            name = max((name for name in taken if meets[name]), key=lambda name: (-taken[name], meets[name]))
            left -= {kind for kind in left if name in KINDS[kind]}
            taken[name] += 1
            found[feature].append(name)
    return found


def targets_of(name):
    """LoRA's target modules: peft's "all-linear" takes experts, too, whose stacked weights no LoRA of ours can have."""
    return ["q_proj", "k_proj", "v_proj", "o_proj"] if name in ("mixtral", "qwen3_moe") else "all-linear"


def tiny(name, seed=0, **changes):
    """A model whose weights are no initial ones: norms and biases are random, too. changes: to its config."""
    torch.manual_seed(seed)
    model_type, special = ARCHITECTURES[name]
    config = CONFIG_MAPPING[model_type](**{**PLAIN, **special, **changes})
    return randomised(AutoModelForCausalLM.from_config(config))


def randomised(model):
    """The model with norms and biases that do something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                # A large bias at the end would be the whole of what is said.
                parameter.add_(torch.randn_like(parameter) * (0.05 if name.endswith("bias") else 0.3))
    for name in ("dropout", "attention_dropout", "hidden_dropout", "layerdrop"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    return model.eval()
