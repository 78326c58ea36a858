"""The folder of Medusa heads, which `method=medusa` writes and the comparison of methods reads.

    medusa.json           format version, MedusaConfig, the base's fingerprint, hash of the adapter trained over
    medusa.safetensors    the heads, in the type the base computes in
    run.yaml, provenance.json   what reproduces them

Nothing in a folder is ever executed.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ssft.base.fingerprint import base_fingerprint
from ssft.bundle.folder import AdapterFiles, all_finite
from ssft.bundle.format import LORA_CONFIG, LORA_WEIGHTS
from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.errors import BundleError, ConfigError
from ssft.files import write_sorted_json
from ssft.schema import read

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "medusa.json", "medusa.safetensors"
MAX_SHOWN = 200
FINGERPRINT = {"architecture": "architecture", "config_sha256": "model shape", "tokenizer_sha256": "tokenizer"}


def write_heads(folder: Path, heads: MedusaHeads, adapted: Any, made_over: str) -> None:
    """Write the heads of the active adapter of `adapted` into a new folder, and read them again.

    `made_over` is what `lora_sha256` said when training began. Raises `BundleError` if the heads hold NaN.
    """
    settings = {
        "format_version": FORMAT_VERSION,
        "medusa": asdict(heads.config),
        "base": _fingerprint(adapted),
        "adapter": {"name": adapted.active.name, "lora_sha256": made_over},
    }
    dtype = adapted.model.dtype
    weights = {key: value.detach().to("cpu", dtype).contiguous() for key, value in heads.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    write_sorted_json(folder / CONFIG, settings)
    _read(folder, adapted, made_over)


def load_medusa(folder: str | os.PathLike[str], adapted: Any) -> MedusaHeads:
    """The heads in `folder`, ready to guess for the active adapter of `adapted`: its device, its type, no gradients.

    Raises:
        ConfigError: the adapter is lossless.
        BundleError: a damaged or incomplete folder, or heads of another base, adapter or shape.
    """
    check_adapter(adapted)
    return _read(folder, adapted, lora_sha256(adapted))


def check_adapter(adapted: Any) -> None:
    """Raise `ConfigError` unless the LoRA acts on the main state, which is what heads read."""
    if adapted.active.bundle is not None and adapted.active.bundle.text_lora is None:
        raise ConfigError(
            f"adapter {adapted.active.name!r} is lossless: its LoRA acts on its streams alone, and Medusa heads read "
            "the main state, which is the base's own; take an adapter of mode=shared or a plain LoRA"
        )


def lora_sha256(adapted: Any) -> str:
    """Hash of the LoRA's two files, as they were when it was loaded; empty for a bare base.

    Not the whole bundle's: another draft tree or other streams change nothing that the heads read.

    Raises:
        BundleError: the folder no longer holds what was loaded.
    """
    bundle = adapted.active.bundle
    if bundle is None:
        return ""
    files = AdapterFiles(bundle.path)
    for name in (LORA_CONFIG, LORA_WEIGHTS):
        files.read(name)
    if not bundle.unchanged():
        raise BundleError(
            f"{bundle.path}: changed since it was loaded, so it is not the adapter that is in memory; load it again"
        )
    return files.sha256


def _read(folder: str | os.PathLike[str], adapted: Any, made_over: str) -> MedusaHeads:
    files = AdapterFiles(folder)
    path = files.path / CONFIG
    settings = files.json(CONFIG)
    version = settings.get("format_version")
    if version != FORMAT_VERSION or type(version) is not int:  # True == 1.0 == 1
        raise BundleError(
            f"{path}: format_version is {_shown(version)}, this ssft reads {FORMAT_VERSION}; newer heads need a newer "
            "ssft"
        )
    config = _read_config(path, settings.get("medusa"))
    _check_made_for(path, settings, adapted, made_over)
    vocabulary, hidden = adapted.hooks.backbone.head.weight.shape
    # On no device: what the config asks for is compared before any memory is taken.
    with torch.device("meta"):
        heads = MedusaHeads(config, hidden, vocabulary)
    expected = {key: tuple(value.shape) for key, value in heads.state_dict().items()}
    files.shapes(WEIGHTS, sum(p.numel() for p in heads.parameters()) * 8 + 2**20)
    weights = files.tensors(WEIGHTS)
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if expected != found:
        wrong = next(key for key in sorted(expected | found) if expected.get(key) != found.get(key))
        raise BundleError(
            f"{files.path / WEIGHTS}: {wrong} has shape {found.get(wrong)}, but {CONFIG} and the base need "
            f"{expected.get(wrong)}"
        )
    model = adapted.model
    weights = {key: value.to(model.device, model.dtype) for key, value in weights.items()}
    if not all(map(all_finite, weights.values())):
        raise BundleError(f"{files.path / WEIGHTS}: holds values beyond the range of {model.dtype}")
    heads.load_state_dict(weights, assign=True)
    return heads.requires_grad_(False).eval()


def _read_config(path: Path, section: Any) -> MedusaConfig:
    try:
        config: MedusaConfig = read(MedusaConfig, section, "medusa")
        config.check_medusa()
    except ValueError as error:  # `ConfigError` is one
        raise BundleError(f"{path}: {str(error)[:MAX_SHOWN]}") from error
    return config


def _check_made_for(path: Path, settings: dict[str, Any], adapted: Any, made_over: str) -> None:
    """Raise `BundleError` unless base and LoRA are those that the heads were trained over."""
    base, adapter = settings.get("base"), settings.get("adapter")
    if not isinstance(base, dict) or not isinstance(adapter, dict):
        raise BundleError(f"{path}: 'base' or 'adapter' is missing or no object")
    fingerprint = _fingerprint(adapted)
    for key, meaning in FINGERPRINT.items():
        if base.get(key) != fingerprint[key]:
            raise BundleError(
                f"{path}: made for base {_shown(base.get('id'))}, whose {meaning} ({_shown(base.get(key), 18)}) is not "
                f"that of {fingerprint['id']!r} ({fingerprint[key][:16]}); decode over that base, or train heads for "
                "this one (ssft train with method=medusa)"
            )
    if adapter.get("lora_sha256") != made_over:
        raise BundleError(
            f"{path}: trained over another LoRA (that of {_shown(adapter.get('name'))} then, "
            f"{_shown(adapter.get('lora_sha256'), 18)}), whose states these heads know; decode with that adapter, or "
            f"train heads for {adapted.active.name!r} (ssft train with method=medusa)"
        )


def _fingerprint(adapted: Any) -> dict[str, str]:
    made_for = {} if adapted.active.bundle is None else adapted.active.bundle.base
    name = made_for.get("id") or getattr(adapted.model.config, "_name_or_path", "") or adapted.active.name
    return base_fingerprint(adapted.model, adapted.tokenizer, name)


def _shown(value: Any, most: int = 80) -> str:
    """A value of a foreign file for a message, which may go to a terminal: without control characters, and bounded."""
    return repr(value)[:most]
