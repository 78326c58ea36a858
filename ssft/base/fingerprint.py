"""Which base a model is: hashes of its shape and of its tokenizer, whatever its precision and place on disk."""

import os
from pathlib import Path
from typing import Any

from ssft.base.named import ALIASES, EMBEDDED
from ssft.files import json_sha256

# What decides the shapes and the arithmetic of the common decoder families; not how a copy is stored or run.
# fmt: off
_ARCHITECTURE_FIELDS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "vocab_size", "rope_parameters", "partial_rotary_factor",
    "max_position_embeddings", "hidden_act", "rms_norm_eps", "layer_norm_eps", "norm_eps",
    "layer_norm_epsilon", "tie_word_embeddings", "attention_bias", "mlp_bias", "sliding_window",
    "layer_types", "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "activation_function", "ffn_dim",
    "word_embed_proj_dim", "do_layer_norm_before", "num_experts", "num_experts_per_tok",
    "num_local_experts", "moe_intermediate_size", "no_rope_layers", "query_pre_attn_scalar", "attn_logit_softcapping",
    "final_logit_softcapping", "logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier",
    "attention_multiplier", "use_parallel_residual", "qk_layernorm", "use_qkv_bias", "new_decoder_architecture",
    "num_kv_heads", "parallel_attn", "multi_query",
)
# fmt: on


def shape_sha256(model: Any) -> str:
    """Hash of what decides the shapes and the arithmetic of a model, whatever its dtype and quantisation."""
    fields = model.config.get_text_config().to_dict()
    return json_sha256({key: fields[key] for key in _ARCHITECTURE_FIELDS if fields.get(key) is not None})


def base_fingerprint(model: Any, tokenizer: Any, name: str | os.PathLike[str]) -> dict[str, str]:
    """What a base is, whatever its dtype, quantisation, library version and place on disk: `id` (alias of an
    embedded base, hub id or the folder's own name), `architecture`, `config_sha256` and `tokenizer_sha256` (vocabulary
    and added tokens)."""
    text = os.fspath(name)
    alias = ALIASES.get(text)  # of an embedded base it says more than the hub id, whose weights are others
    identity = Path(text).expanduser().resolve().name if Path(text).expanduser().is_dir() else text
    added = sorted((index, token.content, token.special) for index, token in tokenizer.added_tokens_decoder.items())
    return {
        "id": identity if alias is None else text if text in EMBEDDED else alias.hub_id,
        "architecture": (getattr(model.config, "architectures", None) or [type(model).__name__])[0],
        "config_sha256": shape_sha256(model),
        "tokenizer_sha256": json_sha256([sorted(tokenizer.get_vocab().items()), added]),
    }
