"""A run that has a trained adapter to start with: what makes a finished LoRA faster.

Either it begins from the adapter's values and goes on training them (mode shared), or it keeps the adapter's LoRA as it
is, under a LoRA of the streams' own (mode lossless): the text is then that adapter's to the last token.
"""

from collections.abc import Iterable
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict

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
    """Copy the LoRA of `start`, and its streams where both have some, into `adapter` of a model that is to be trained.

    Raises:
        ConfigError: the run's LoRA or streams have another shape; nothing was copied.
    """
    fresh = get_peft_model_state_dict(peft_model, adapter_name=adapter)
    _check_same_lora(start, peft_model.peft_config[adapter].to_dict(), [key for key in fresh if CONTAINER not in key])
    streams = streams_of(peft_model, adapter)
    if streams is not None and start.stream_config is not None:
        if (found := start.stream_config.stream_dict()) != (wanted := streams.config.stream_dict()):
            key = next(key for key in found if found[key] != wanted[key])
            raise ConfigError(
                f"adapter={start.path} has streams with {key}={found[key]}, the run asks for {wanted[key]}; set "
                f"training.{key}={found[key]}, or begin from a plain LoRA"
            )
        width = peft_model.get_base_model().config.hidden_size
        streams.load_state_dict(load_stream_modules(start, width).state_dict())
    set_peft_model_state_dict(peft_model, start.loras[0].weights, adapter_name=adapter)


def _check_same_lora(start: Bundle, wanted: dict[str, Any], fresh: Iterable[str]) -> None:
    """Raise `ConfigError` unless both have the same tensors, with the same rank and factor: otherwise the values would
    make another model, or would not fit at all. `wanted` is peft's config of the run's LoRA, `fresh` its tensors."""
    lora = start.loras[0]

    def products(keys: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
        modules = {key: lora_target(lora.weights_file, key)[0] for key in keys}
        return {
            key: f"a LoRA of rank {lora_rank(config, module)} and factor alpha/r {lora_scaling(config, module):g}"
            for key, module in modules.items()
        }

    has, asked = products(lora.weights, lora.config), products(fresh, wanted)
    for key in sorted({**has, **asked}):
        if has.get(key) != asked.get(key):
            targets = lora.config.get("target_modules")
            raise ConfigError(
                f"adapter={start.path} has {has.get(key, 'no LoRA')} on {lora_target(lora.weights_file, key)[0]}, the "
                f"run has {asked.get(key, 'no LoRA')} there; set lora.r={lora.config['r']}, lora.lora_alpha="
                f"{lora.config['lora_alpha']:g}, and the patterns, use_rslora and target_modules as the adapter has "
                f"them: {', '.join(sorted(targets)) if isinstance(targets, list) else targets}"
            )
