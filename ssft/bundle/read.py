"""Reading a bundle in two stages: the outline (configs and headers, all that is known without tensors), the tensors.

Everything that a folder alone can tell is checked in the first stage, before a base is loaded; `fit.check_fit` checks
an outline against a base. The second stage checks what only the numbers show, and that they are those of the outline.
What a foreign folder must not do to the reader is in `folder.py`.
"""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ssft.bundle.folder import MAX_WEIGHTS, AdapterFiles
from ssft.bundle.format import (
    FORMAT_VERSION,
    HASHED,
    LORA_CONFIG,
    LORA_WEIGHTS,
    MAX_HIDDEN,
    MAX_NAME,
    OWN_LORA_VERSION,
    PROVENANCE,
    SSFT_CONFIG,
    STREAM_LORA_CONFIG,
    STREAM_LORA_WEIGHTS,
    STREAM_WEIGHTS,
    Bundle,
    LoraPart,
)
from ssft.bundle.lora_config import check_types
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError
from ssft.streams.config import StreamConfig


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check an adapter folder; raises `BundleError` naming the file and what is wrong with it."""
    return read_tensors(read_outline(path))


def read_tensors(outline: Bundle) -> Bundle:
    """The second stage: the bundle of an outline with its tensors, finite numbers in memory of their own.

    Raises `BundleError` for NaN and infinities, and for a folder that was changed since the first stage.
    """
    files = outline.files.continued()
    names = {part.weights_file.name for part in outline.loras}
    if outline.stream_config is not None:
        names.add(STREAM_WEIGHTS)
    held = {name: files.tensors(name) for name in HASHED if name in names}
    loras = tuple(replace(part, weights=held[part.weights_file.name]) for part in outline.loras)
    return replace(outline, loras=loras, stream_weights=held.get(STREAM_WEIGHTS, {}), files=files)


def read_outline(path: str | os.PathLike[str]) -> Bundle:
    """The first stage: a bundle whose tensors are on the device "meta", with the shapes and types of the headers.

    Raises `BundleError` naming the file and what is wrong with it.
    """
    files = AdapterFiles(path)
    folder = files.path
    config = _lora_config(files, LORA_CONFIG)
    # A plain peft folder has none of our files; half of them is damage.
    if not any(map(files.exists, (SSFT_CONFIG, STREAM_WEIGHTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS))):
        part = _lora_part(files, "all", config, LORA_CONFIG, LORA_WEIGHTS)
        return Bundle(folder, 0, None, TreeConfig(), {}, (part,), {}, {}, files)
    settings = files.json(SSFT_CONFIG)
    version = settings.get("format_version")
    if version not in (FORMAT_VERSION, OWN_LORA_VERSION) or type(version) is not int:  # True == 1.0 == 1
        raise BundleError(
            f"{folder / SSFT_CONFIG}: format_version is {version!r}, this ssft reads {FORMAT_VERSION} and "
            f"{OWN_LORA_VERSION}; a newer bundle needs a newer ssft"
        )
    streams = _section(folder, settings, "streams", StreamConfig)
    tree = _section(folder, settings, "tree", TreeConfig)
    try:
        streams.check_streams()
        tree.check_tree()
    except ConfigError as error:
        raise BundleError(f"{folder / SSFT_CONFIG}: {error}") from error
    has_own = version == OWN_LORA_VERSION
    if has_own and streams.mode != "lossless":
        raise BundleError(
            f"{folder / SSFT_CONFIG}: format_version {version} with streams.mode={streams.mode!r}; streams with a LoRA "
            "of their own have the mode 'lossless'"
        )
    if not has_own and (stray := [n for n in (STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS) if files.exists(n)]):
        raise BundleError(
            f"{folder / stray[0]}: {SSFT_CONFIG} has format_version {version}, in which streams have no LoRA of their "
            "own; one of the two files is from another bundle"
        )
    base = _fingerprint(folder / SSFT_CONFIG, settings.get("base"))
    stream_weights = _stream_shapes(files, streams)
    own_config = _lora_config(files, STREAM_LORA_CONFIG) if has_own else None
    # In format 1 a lossless bundle has one LoRA, and that is for the streams.
    for_streams = streams.mode == "lossless" and not has_own
    loras = [_lora_part(files, "streams" if for_streams else "all", config, LORA_CONFIG, LORA_WEIGHTS)]
    if own_config is not None:
        loras.append(_lora_part(files, "streams", own_config, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS))
    provenance = files.json(PROVENANCE, hashed=False) if files.exists(PROVENANCE) else {}
    return Bundle(folder, version, streams, tree, base, tuple(loras), stream_weights, provenance, files)


def _lora_config(files: AdapterFiles, name: str) -> dict[str, Any]:
    """peft's config in the file `name`, with values of the right types."""
    config = files.json(name)
    check_types(files.path / name, config)
    _check_name(files.path / name, "base_model_name_or_path", config.get("base_model_name_or_path") or "")
    return config


def _lora_part(files: AdapterFiles, rows: Any, config: dict[str, Any], config_file: str, weights_file: str) -> LoraPart:
    return LoraPart(rows, config, files.shapes(weights_file), files.path / config_file, files.path / weights_file)


def _stream_shapes(files: AdapterFiles, streams: StreamConfig) -> dict[str, Any]:
    rank = streams.projection_rank
    # P [γ, h] and f_η [2, η, h] in float64 at the widest, and a header.
    limit = (streams.num_streams + 2 * min(rank, MAX_HIDDEN)) * MAX_HIDDEN * 8 + 2**20
    shapes = files.shapes(STREAM_WEIGHTS, min(limit, MAX_WEIGHTS))
    if rank and not any(rank in tensor.shape for tensor in shapes.values()):
        raise BundleError(
            f"{files.path / STREAM_WEIGHTS}: no tensor has the side projection_rank={rank} of {SSFT_CONFIG}"
        )
    return shapes


def _fingerprint(path: Path, base: Any) -> dict[str, str]:
    needed = ("id", "architecture", "config_sha256", "tokenizer_sha256")
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in needed):
        raise BundleError(f"{path}: 'base' must hold the strings {', '.join(needed)}")
    for key in needed:
        _check_name(path, f"base.{key}", base[key])
    return base


def _check_name(path: Path, key: str, value: Any) -> None:
    """Raise `BundleError` unless `value` of the file `path` is a string that a terminal and a message can show."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_NAME:
        size = f", {len(value):,} characters" if isinstance(value, str) else ""
        raise BundleError(
            f"{path}: {key}={repr(value)[:60]}{size}; expected a string of at most {MAX_NAME} printable characters"
        )


def _section(folder: Path, settings: dict[str, Any], name: str, kind: Any) -> Any:
    """One section of ssft_config.json as its dataclass; every field must be known and of the default's type."""
    section = settings.get(name)
    if not isinstance(section, dict):
        raise BundleError(f"{folder / SSFT_CONFIG}: {name!r} is missing or no object")
    types = {f.name: type(f.default) for f in fields(kind)}
    for key, value in section.items():
        if key not in types:
            shown = key if key.isidentifier() and len(key) <= 60 else f"{key[:60]!r}..."
            raise BundleError(f"{folder / SSFT_CONFIG}: {name}.{shown} is unknown to this version of ssft")
        if type(value) is not types[key]:
            raise BundleError(
                f"{folder / SSFT_CONFIG}: {name}.{key}={repr(value)[:80]}, expected {types[key].__name__}"
            )
    return kind(**section)
