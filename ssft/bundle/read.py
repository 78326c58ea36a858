"""Reading a bundle in two stages: the outline (configs and headers, all that is known without tensors), the tensors.

Everything that a folder alone can tell is checked in the first stage, before a base is loaded; `fit.check_fit` checks
an outline against a base. The second stage checks what only the numbers show, and that they are those of the outline.
What a foreign folder must not do to the reader is in `folder.py`.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssft.bundle.folder import MAX_WEIGHTS, AdapterFiles
from ssft.bundle.format import (
    DRAFT_VOCABULARY,
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
    VOCABULARY_VERSION,
    Bundle,
    LoraPart,
)
from ssft.bundle.lora_config import check_types
from ssft.bundle.vocabulary import vocabulary_ids, vocabulary_outline
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError
from ssft.schema import read
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
    ids = None if outline.draft_vocabulary is None else vocabulary_ids(files)
    streams = held.get(STREAM_WEIGHTS, {})
    return replace(outline, loras=loras, stream_weights=streams, draft_vocabulary=ids, files=files)


def read_outline(path: str | os.PathLike[str]) -> Bundle:
    """The first stage: a bundle whose tensors are on the device "meta", with the shapes and types of the headers.

    Raises `BundleError` naming the file and what is wrong with it.
    """
    files = AdapterFiles(path)
    loras = [_lora_part(files, LORA_CONFIG, LORA_WEIGHTS)]
    # A plain peft folder has none of our files; half of them is damage.
    ours = (SSFT_CONFIG, STREAM_WEIGHTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS, DRAFT_VOCABULARY)
    if not any(map(files.exists, ours)):
        return Bundle(files.path, 0, None, TreeConfig(), {}, tuple(loras), {}, {}, files)
    settings, where = files.json(SSFT_CONFIG), files.path / SSFT_CONFIG
    version = settings.get("format_version")
    known = (FORMAT_VERSION, OWN_LORA_VERSION, VOCABULARY_VERSION)
    if version not in known or type(version) is not int:  # True == 1.0 == 1
        what = f"format_version is {version!r}, this ssft reads {', '.join(map(str, known[:-1]))} and {known[-1]}"
        raise BundleError(f"{where}: {what}; a newer bundle needs a newer ssft")
    try:
        streams: StreamConfig = read(StreamConfig, settings.get("streams"), "streams")
        tree: TreeConfig = read(TreeConfig, settings.get("tree"), "tree")
        streams.check_streams()
        tree.check_tree()
    except ValueError as error:  # `ConfigError` is one
        raise BundleError(f"{where}: {error}") from error
    own = [name for name in (STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS) if files.exists(name)]
    has_own = version == OWN_LORA_VERSION or bool(own)
    if version != FORMAT_VERSION and has_own and streams.mode != "lossless":
        what = f"format_version {version} with streams.mode={streams.mode!r}"
        raise BundleError(f"{where}: {what}; streams with a LoRA of their own have the mode 'lossless'")
    if version == FORMAT_VERSION and own:
        what = f"{SSFT_CONFIG} has format_version {version}, in which streams have no LoRA of their own"
        raise BundleError(f"{files.path / own[0]}: {what}; one of the two files is from another bundle")
    if version != VOCABULARY_VERSION and files.exists(DRAFT_VOCABULARY):
        what = f"{SSFT_CONFIG} has format_version {version}, in which streams have no draft vocabulary"
        raise BundleError(f"{files.path / DRAFT_VOCABULARY}: {what}; one of the two files is from another bundle")
    base, keys = settings.get("base"), ("id", "architecture", "config_sha256", "tokenizer_sha256")
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in keys):
        raise BundleError(f"{where}: 'base' must hold the strings {', '.join(keys)}")
    for key in keys:
        _check_name(where, f"base.{key}", base[key])
    files.base_id = base["id"]
    if tree.prunes and not streams.prune_head_rank:
        what = f"tree.prune_below={tree.prune_below:g} and tree.prune_keep={tree.prune_keep} with"
        raise BundleError(f"{where}: {what} streams.prune_head_rank=0; without a prune head nothing can be pruned")
    ranks = {"projection_rank": streams.projection_rank, "prune_head_rank": streams.prune_head_rank}
    # P [γ, h], f_η [2, η, h] and o_θ [2, θ, h] in float64 at the widest, and a header.
    widths = streams.num_streams + 2 * sum(min(rank, MAX_HIDDEN) for rank in ranks.values())
    stream_weights = files.shapes(STREAM_WEIGHTS, min(widths * MAX_HIDDEN * 8 + 2**20, MAX_WEIGHTS))
    for key, rank in ranks.items():
        if rank and not any(rank in tensor.shape for tensor in stream_weights.values()):
            what = f"no tensor has the side {key}={rank} of {SSFT_CONFIG}"
            raise BundleError(f"{files.path / STREAM_WEIGHTS}: {what}")
    if has_own:
        loras.append(_lora_part(files, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS))
    ids = vocabulary_outline(files) if version == VOCABULARY_VERSION else None
    if streams.mode == "lossless":  # without streams' own it has one LoRA, and that is for the streams
        loras[-1].rows = "streams"
    provenance = files.json(PROVENANCE, hashed=False) if files.exists(PROVENANCE) else {}
    return Bundle(files.path, version, streams, tree, base, tuple(loras), stream_weights, provenance, files, ids)


def _lora_part(files: AdapterFiles, config_file: str, weights_file: str) -> LoraPart:
    """The LoRA of two files as peft writes them, with the types of its settings checked."""
    config, path = files.json(config_file), files.path / config_file
    check_types(path, config)
    _check_name(path, "base_model_name_or_path", config.get("base_model_name_or_path") or "")
    return LoraPart("all", config, files.shapes(weights_file), path, files.path / weights_file)


def _check_name(path: Path, key: str, value: Any) -> None:
    """Raise `BundleError` unless `value` of the file `path` is a string that a terminal and a message can show."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_NAME:
        size = f", {len(value):,} characters" if isinstance(value, str) else ""
        raise BundleError(
            f"{path}: {key}={repr(value)[:60]}{size}; expected a string of at most {MAX_NAME} printable characters"
        )
