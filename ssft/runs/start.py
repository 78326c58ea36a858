"""A run that has a trained adapter to start with: what makes a finished LoRA faster.

Either it begins from the adapter's values and goes on training them (mode shared), or it keeps the adapter's LoRA as it
is, under a LoRA of the streams' own (mode lossless): the text is then that adapter's to the last token.
"""

from collections.abc import Iterable
from math import isclose
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from ssft.bundle.fit import load_stream_modules, read_fitting
from ssft.bundle.format import Bundle
from ssft.bundle.hub import resolve_adapter
from ssft.bundle.lora_config import check_low_rank, lora_rank, lora_scaling, lora_target
from ssft.errors import ConfigError
from ssft.lora.weights import LoraWeights, product_hook
from ssft.streams.modules import CONTAINER, streams_of


def read_start(adapter: str, model: Any, fingerprint: dict[str, str]) -> Bundle:
    """The adapter that a run over `model` (the bare base) starts with: a folder, `adapters/NAME` or owner/name.

    Raises:
        BundleError: damaged, made for another base, or no LoRA that decodes here.
        ConfigError: its LoRA never acted on the text.
    """
    bundle = read_fitting(resolve_adapter(adapter), model, fingerprint)
    check_low_rank(bundle.loras[0].config_file, bundle.loras[0].config)
    if bundle.text_lora is None:
        raise ConfigError(
            f"adapter={adapter} is lossless: its LoRA acts on its streams alone, and the text is the base's; begin "
            "from an adapter of mode=shared or a plain LoRA, or leave adapter out"
        )
    return bundle


def hold(model: Any, start: Bundle) -> None:
    """Let every row of `model` (the bare base) run with the text's LoRA of `start`, frozen, whatever trains over it.

    By hooks of their own on the base's linear modules: peft, which wraps these modules later, its checkpoints and its
    gates for the streams' rows know nothing of it.
    """
    for name, layer in LoraWeights.from_bundle(start, model).layers.items():
        model.get_submodule(name).register_forward_hook(product_hook(layer, model.dtype))


def begin_from(peft_model: Any, start: Bundle, adapter: str = "default") -> None:
    """Copy the text's LoRA of `start`, and its streams where both share that LoRA, into `adapter` of a model to train.

    Where the run's LoRA has a higher rank it says the same: B is zero in the ranks that are new.

    Raises:
        ConfigError: the run's LoRA or streams have another shape; nothing was copied.
    """
    fresh = get_peft_model_state_dict(peft_model, adapter_name=adapter)
    fresh = {key: value for key, value in fresh.items() if CONTAINER not in key}
    _check_holds(start, peft_model.peft_config[adapter].to_dict(), fresh)
    streams = streams_of(peft_model, adapter)
    if streams is not None and start.stream_config is not None and start.streams_own_lora is None:
        if (found := start.stream_config.stream_dict()) != (wanted := streams.config.stream_dict()):
            key = next(key for key in found if found[key] != wanted[key])
            raise ConfigError(
                f"adapter={start.path} has streams with {key}={found[key]}, the run asks for {wanted[key]}; set "
                f"training.{key}={found[key]}, or begin from a plain LoRA"
            )
        width = peft_model.get_base_model().config.hidden_size
        streams.load_state_dict(load_stream_modules(start, width).state_dict())
    weights = {key: _widened(value, fresh[key]) for key, value in start.loras[0].weights.items()}
    set_peft_model_state_dict(peft_model, weights, adapter_name=adapter)


def _widened(value: Tensor, fresh: Tensor) -> Tensor:
    """A [r, in] or B [out, r] of a start in the shape of `fresh`, whose rank may be higher."""
    down = value.shape[1] == fresh.shape[1]  # A; of equal ranks B, too, and nothing is left over
    wide = fresh.clone() if down else torch.zeros_like(fresh)
    wide[: value.shape[0], : value.shape[1]] = value
    return wide


def _check_holds(start: Bundle, wanted: dict[str, Any], fresh: Iterable[str]) -> None:
    """Raise `ConfigError` unless the run's LoRA has the tensors of the start's, with its factors and at least its
    ranks: otherwise the values would make another model, or would not fit at all. `wanted` is peft's config of the
    run's LoRA, `fresh` its tensors."""
    lora = start.loras[0]

    def products(keys: Iterable[str], config: dict[str, Any]) -> dict[str, tuple[int, float]]:
        modules = {key: lora_target(lora.weights_file, key)[0] for key in keys}
        return {key: (lora_rank(config, module), lora_scaling(config, module)) for key, module in modules.items()}

    def told(product: tuple[int, float] | None) -> str:
        return "no LoRA" if product is None else f"a LoRA of rank {product[0]} and factor alpha/r {product[1]:g}"

    has, asked = products(lora.weights, lora.config), products(fresh, wanted)
    for key in sorted({**has, **asked}):
        own, new = has.get(key), asked.get(key)
        if own is None or new is None or new[0] < own[0] or not isclose(new[1], own[1]):
            targets = lora.config.get("target_modules")
            raise ConfigError(
                f"adapter={start.path} has {told(own)} on {lora_target(lora.weights_file, key)[0]}, the run has "
                f"{told(new)} there; set lora.r={lora.config['r']}, lora.lora_alpha="
                f"{lora.config['lora_alpha']:g}, and the patterns, use_rslora and target_modules as the adapter has "
                f"them: {', '.join(sorted(targets)) if isinstance(targets, list) else targets}; ranks may be higher "
                "where the factors are the same"
            )
