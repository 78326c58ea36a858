"""Whether a bundle fits a base, and its streams as modules there; what does not fit takes no memory.

`check_fit` is the check of all names and shapes against a base. It takes an outline, and `read_fitting` reads the
tensors of one that passed it; nothing asks again afterwards.
"""

import os
import shlex
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ssft.bundle.folder import all_finite
from ssft.bundle.format import SSFT_CONFIG, STREAM_WEIGHTS, Bundle, LoraPart
from ssft.bundle.lora_config import check_patterns, lora_rank, lora_target
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
    check_fit(outline, model, fingerprint)
    return read_tensors(outline)


def check_fit(bundle: Bundle, model: Any, fingerprint: dict[str, str]) -> None:
    """Raise `BundleError` unless the adapter was made for `model` and its tensors have the names and shapes needed."""
    bundle.check_held()
    if bundle.base:
        remedy = f"give --base {shlex.quote(bundle.base['id'])} or train an adapter for this base"
        check_base(bundle.path, bundle.base, fingerprint, remedy)
    for part in bundle.loras:
        check_patterns(part.config_file, part.config, [name for name, _ in model.named_modules()])
        check_shapes(part, model)
    if bundle.stream_config is not None:
        _check_streams(bundle, bundle.stream_config, model.config)


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


def check_shapes(part: LoraPart, model: Any) -> None:
    """Raise `BundleError` unless `model` has every module of a LoRA, and A is [r, in] and B [out, r] there."""
    for key, tensor in part.weights.items():
        module, kind = lora_target(part.weights_file, key)
        try:
            layer = model.get_submodule(module)
        except AttributeError:
            raise BundleError(
                f"{part.weights_file}: {key} names the module {module}, which the base does not have; "
                "the adapter was made for another architecture"
            ) from None
        rank, sizes = lora_rank(part.config, module), _linear_sizes(layer)
        if sizes is None:
            continue
        expected = (rank, sizes[0]) if kind == "lora_A" else (sizes[1], rank)
        if tuple(tensor.shape) != expected:
            raise BundleError(
                f"{part.weights_file}: {key} has shape {tuple(tensor.shape)}, the base needs {expected} at "
                f"the rank {rank} of {part.config_file.name}"
            )


def _linear_sizes(layer: Any) -> tuple[int, int] | None:
    """(in, out) of a linear layer, quantised or not; None for anything else."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Conv1D):  # GPT-2's linear layer: the weight is [in, out]
        return layer.weight.shape[0], layer.weight.shape[1]
    sizes = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])


def _check_streams(bundle: Bundle, streams: StreamConfig, base: Any) -> None:
    try:
        streams.check_streams(base.num_hidden_layers)
    except ConfigError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    modules = _empty_modules(streams, base.hidden_size)
    check_tensors(bundle.path / STREAM_WEIGHTS, bundle.stream_weights, modules, SSFT_CONFIG)


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


def _empty_modules(streams: StreamConfig, hidden_size: int) -> StreamModules:
    """On the device "meta": a config alone must not have modules of any size built."""
    with torch.device("meta"):
        return StreamModules(streams, hidden_size)


def load_stream_modules(bundle: Bundle, hidden_size: int) -> StreamModules:
    """The stream parameters of a bundle that fits, as a module in float32 for a base of width h = `hidden_size`."""
    assert bundle.stream_config is not None
    bundle.check_held()
    modules = _empty_modules(bundle.stream_config, hidden_size)
    return fill(modules, bundle.path / STREAM_WEIGHTS, bundle.stream_weights, torch.float32)
