"""Whether decoding can hold the LoRA that a recipe asks for: judged before the training, by the rules of reading it."""

from pathlib import Path
from typing import Any

from peft import LoraConfig

from ssft.base.linear import is_linear
from ssft.bundle.lora_config import check_patterns, check_types, lora_targets, no_low_rank_sum
from ssft.errors import BundleError, ConfigError, nearest
from ssft.schema import shown

_PLACE = Path("lora")
"""Stands in messages where that of an adapter has its file."""


def check_settings(lora: LoraConfig) -> None:
    """Raise `ConfigError` unless what a training with the settings `lora` writes can decode, whatever the base."""
    config = _as_written(lora)
    if found := no_low_rank_sum(config):
        key, reason = found
        raise ConfigError(
            f"lora.{key}={shown(config[key])}: decoding adds a low-rank sum to a base that adapters share, and could "
            f"not hold what is trained: {reason}; leave lora.{key} out"
        )
    if lora.init_lora_weights == "eva":
        raise ConfigError(
            "lora.init_lora_weights='eva': this start is computed from activations by a call of peft's own, which ssft "
            "does not make; leave lora.init_lora_weights out, or set it to gaussian or orthogonal"
        )
    try:
        check_types(_PLACE, config)
    except BundleError as error:
        raise ConfigError(str(error)) from error


def check_targets(lora: LoraConfig, model: Any) -> None:
    """Raise `ConfigError` unless the targets of `lora` are in `model` (a causal LM), and its linear modules below the
    head."""
    config, modules = _as_written(lora), dict(model.named_modules())
    given = config["target_modules"]
    head = model.get_output_embeddings()
    fit = {name for name, module in modules.items() if is_linear(module) and module is not head}
    known = sorted({name.rpartition(".")[2] for name in fit})
    choose = f"the base's linear modules are {', '.join(known)}"
    try:
        check_patterns(_PLACE, config, list(modules))
        for name in given if isinstance(given, list) else ():
            if not lora_targets(_PLACE, {"target_modules": [name]}, model):
                hint = nearest(name, known) or choose
                raise ConfigError(f"lora.target_modules: the base has no module {shown(name)}; {hint}")
        targets = lora_targets(_PLACE, config, model)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    what = f"lora.target_modules={shown(given)}"
    if not targets and isinstance(given, str) and not lora_targets(_PLACE, {"target_modules": given}, model):
        raise ConfigError(
            f"{what}: a string is an expression for whole names of modules, such as {min(fit)}, and fits none of them; "
            f"name modules in a list, such as [{known[0]}]; {choose}"
        )
    if not targets:
        narrowing = ("exclude_modules", "layers_to_transform", "layers_pattern")
        given = ", ".join(f"lora.{key}={shown(config[key])}" for key in narrowing if config[key])
        raise ConfigError(f"{what}: no module is left for a LoRA{given and f' with {given}'}; {choose}")
    for name in sorted(targets - fit):
        if modules[name] is head:
            reason = f"{name} is the base's head, whose weight the loss takes directly; a LoRA there would never learn"
        else:
            reason = f"{name} is of type {type(modules[name]).__name__}, and only linear modules can decode with a LoRA"
        raise ConfigError(f"{what}: {reason}; {choose}")


def _as_written(lora: LoraConfig) -> dict[str, Any]:
    """The config as peft writes it into an adapter's folder."""
    return {key: sorted(v) if isinstance(v, set) else v for key, v in lora.to_dict().items()}
