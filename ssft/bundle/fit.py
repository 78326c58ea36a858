"""Whether a bundle fits a base, and its streams as modules there; what does not fit takes no memory.

`check_fit` checks all names and shapes of an outline against a base; `read_fitting` reads the tensors of one that
passed.
"""

import os
import shlex
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ssft.base.linear import is_linear, linear_sizes
from ssft.bundle.folder import all_finite
from ssft.bundle.format import SSFT_CONFIG, STREAM_WEIGHTS, Bundle, LoraPart
from ssft.bundle.lora_config import check_low_rank, check_patterns, lora_rank, lora_target
from ssft.bundle.read import read_outline, read_tensors
from ssft.errors import BundleError, ConfigError
from ssft.schema import shown
from ssft.streams.config import StreamConfig
from ssft.streams.modules import StreamModules

Modules = TypeVar("Modules", bound=nn.Module)


def read_fitting(path: str | os.PathLike[str], model: Any, fingerprint: dict[str, str]) -> Bundle:
    """Read the adapter folder `path` for `model` (a causal LM) with that fingerprint; `BundleError` if it does not fit.

    By the headers first: a file of gigabytes that cannot fit the base must not take them.
    """
    outline = read_outline(path)
    for part in outline.loras:
        check_low_rank(part.config_file, part.config)
    check_fit(outline, model, fingerprint)
    return read_tensors(outline)


def check_fit(bundle: Bundle, model: Any, fingerprint: dict[str, str]) -> None:
    """Raise `BundleError` unless the adapter was made for `model` and its tensors have the names and shapes needed."""
    if bundle.base:
        remedy = f"give --base {shlex.quote(bundle.base_name or '')} or train an adapter for this base"
        check_base(bundle.path, bundle.base, fingerprint, remedy)
    for part in bundle.loras:
        check_patterns(part.config_file, part.config, [name for name, _ in model.named_modules()])
        lora_pairs(part, model)
    if bundle.stream_config is None:
        return
    try:
        bundle.stream_config.check_streams(model.config.num_hidden_layers)
    except ConfigError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    modules = _empty_modules(bundle.stream_config, model.config.hidden_size)
    check_tensors(bundle.path / STREAM_WEIGHTS, bundle.stream_weights, modules, SSFT_CONFIG)


def check_base(path: Path, base: dict[str, str], fingerprint: dict[str, str], remedy: str) -> None:
    """Raise `BundleError` unless `base`, which `path` was made for, has that fingerprint; `remedy` ends the message."""
    for key, meaning in (
        ("architecture", "architecture"),
        ("config_sha256", "model shape"),
        ("tokenizer_sha256", "tokenizer"),
    ):
        if (found := base.get(key, "")) != fingerprint[key]:
            raise BundleError(
                f"{path}: made for base {shown(base.get('id'))}, whose {meaning} ({found[:16]!r}) is not that of "
                f"{fingerprint['id']!r} ({fingerprint[key][:16]!r}); {remedy}"
            )


def check_tensors(path: Path, weights: dict[str, Tensor], modules: nn.Module, config_file: str) -> None:
    """Raise `BundleError` unless the tensors of the file `path` have the names and shapes of those of `modules`, which
    were built as `config_file` says."""
    needed = {key: tuple(value.shape) for key, value in modules.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = [key for key in sorted({**needed, **found}) if needed.get(key) != found.get(key)][:8]
    if wrong:
        raise BundleError(
            f"{path}: holds { {key: found.get(key) for key in wrong} }, but {config_file} and the base need "
            f"{ {key: needed.get(key) for key in wrong} }"
        )


def fill(modules: Modules, path: Path, weights: dict[str, Tensor], dtype: torch.dtype, device: Any = "cpu") -> Modules:
    """`modules`, on the device "meta" until now, with copies of the tensors of the file `path`, ready to decode."""
    weights = {key: value.to(device, dtype, copy=True) for key, value in weights.items()}
    if not all(map(all_finite, weights.values())):
        raise BundleError(f"{path}: holds values beyond the range of {str(dtype).removeprefix('torch.')}")
    modules.load_state_dict(weights, assign=True)
    return modules.requires_grad_(False).eval()


def lora_pairs(part: LoraPart, model: Any) -> dict[str, dict[str, Tensor]]:
    """{module: {"lora_A": [r, in], "lora_B": [out, r]}} of one LoRA, by the modules' names in the base.

    Raises `BundleError` unless `model` has all of them as linear layers with these sizes.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    file = part.weights_file
    for key, tensor in part.weights.items():
        name, kind = lora_target(file, key)
        pairs.setdefault(name, {})[kind] = tensor
        try:
            layer = linear_of(model, name)
        except AttributeError:
            what = f"{key} names the module {name}, which the base does not have"
            raise BundleError(f"{file}: {what}; the adapter was made for another architecture") from None
        if not is_linear(layer):
            what = f"holds a LoRA of {name}, a {type(layer).__name__}"
            raise BundleError(f"{file}: {what}; only linear layers can have one here")
        sizes = linear_sizes(layer)
        rank, shape = lora_rank(part.config, name), tuple(tensor.shape)
        if shape != (needed := (rank, sizes[0]) if kind == "lora_A" else (sizes[1], rank)):
            what = f"{key} has shape {shape}, the base needs {needed}"
            raise BundleError(f"{file}: {what} at the rank {rank} of {part.config_file.name}")
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise BundleError(f"{file}: {name} has {next(iter(pair))} alone; the file is incomplete")
    if not pairs:
        raise BundleError(f"{file}: holds no LoRA at all, or was released from memory; read it again")
    return pairs


def linear_of(model: Any, name: str) -> Any:
    """Module `name` of the bare base, also where peft has put a LoRA of its own around it."""
    module = model.get_submodule(name)
    return getattr(module, "base_layer", module)


def _empty_modules(streams: StreamConfig, hidden_size: int) -> StreamModules:
    """On the device "meta": a config alone must not have modules of any size built."""
    with torch.device("meta"):
        return StreamModules(streams, hidden_size)


def load_stream_modules(bundle: Bundle, hidden_size: int) -> StreamModules:
    """The stream parameters of a bundle that fits, as a module in float32 for a base of width h = `hidden_size`."""
    assert bundle.stream_config is not None
    modules = _empty_modules(bundle.stream_config, hidden_size)
    return fill(modules, bundle.path / STREAM_WEIGHTS, bundle.stream_weights, torch.float32)
