"""Writing an adapter bundle: the folder appears whole or not at all, and takes no foreign file's place."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssft.base.load import public_name
from ssft.bundle.folder import AdapterFiles, all_finite
from ssft.bundle.format import (
    BUNDLE_FILES,
    CARD,
    CURVE,
    FORMAT_VERSION,
    HASHED,
    LORA_CONFIG,
    LORA_WEIGHTS,
    OWN_LORA_VERSION,
    PROVENANCE,
    RUN,
    SSFT_CONFIG,
    STREAM_LORA_CONFIG,
    STREAM_LORA_WEIGHTS,
    STREAM_WEIGHTS,
    VOCABULARY_VERSION,
    Bundle,
    LoraPart,
    is_bundle,
)
from ssft.bundle.read import read_bundle
from ssft.bundle.vocabulary import save_vocabulary
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError
from ssft.files import whole_folder, write_sorted_json
from ssft.streams.modules import CONTAINER, StreamModules, streams_of


def write_bundle(
    path: str | os.PathLike[str],
    peft_model: Any,
    *,
    tree: TreeConfig,
    base: dict[str, str],
    run_yaml: str = "",
    provenance: dict[str, Any] | None = None,
    keep: Mapping[str, bytes] | None = None,
    adapter: str = "default",
    text_lora: LoraPart | None = None,
    draft_vocabulary: Tensor | None = None,
    save_dtype: torch.dtype | None = None,
) -> Bundle:
    """Write the bundle of one trained adapter into the folder `path`, in the place of a bundle that is there already.

    Args:
        peft_model: `PeftModel` with the adapter and, attached, its streams.
        tree, base: default draft tree; fingerprint of the base (`base_fingerprint`).
        run_yaml, provenance: settings that reproduce the run; versions, commit, history.
        keep: further files, name -> content: what was the user's in a bundle that is replaced (`carried_over`).
        text_lora: the LoRA under which the adapter of `peft_model` was trained, which is then the streams' own.
        draft_vocabulary: the token ids [v] that the streams guess from; None: all that the base has.
        save_dtype: type in which the tensors of the LoRA that was trained are written; None: the one that they have.
            `text_lora` is written as it is.
    """
    target = Path(path)
    with whole_folder(target, check_replaceable) as folder:
        modules = streams_of(peft_model, adapter)
        if modules is None:
            raise BundleError("the model has no streams to save; train it with StreamSFTTrainer")
        # peft saves whatever stands on its tuner; the LoRA file is to hold the LoRA alone.
        container = peft_model.base_model._modules.pop(CONTAINER)
        try:
            peft_model.save_pretrained(folder, selected_adapters=[adapter], save_embedding_layers=False)
        finally:
            peft_model.base_model.add_module(CONTAINER, container)
        trained = json.loads((folder / LORA_CONFIG).read_text()), load_file(folder / LORA_WEIGHTS)
        named = public_name(base["id"], trained[0]["base_model_name_or_path"] or "")
        version, places = FORMAT_VERSION, {(LORA_CONFIG, LORA_WEIGHTS): trained}
        if text_lora is not None:
            version, places[LORA_CONFIG, LORA_WEIGHTS] = OWN_LORA_VERSION, (text_lora.config, text_lora.weights)
            places[STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS] = trained
        if draft_vocabulary is not None:
            version = VOCABULARY_VERSION
            save_vocabulary(folder, draft_vocabulary)
        for (name, file), (config, tensors) in places.items():
            write_sorted_json(folder / name, {**config, "base_model_name_or_path": named})
            save_lora(folder / file, tensors, save_dtype if tensors is trained[1] else None)
        settings = {"format_version": version, "streams": modules.config.stream_dict()}
        write_sorted_json(folder / SSFT_CONFIG, {**settings, "tree": tree.tree_dict(), "base": base})
        weights = {key: value.detach().float().cpu().contiguous() for key, value in modules.state_dict().items()}
        save_file(weights, folder / STREAM_WEIGHTS)
        (folder / RUN).write_text(run_yaml, encoding="utf-8")
        write_sorted_json(folder / PROVENANCE, provenance or {})
        (folder / CARD).unlink(missing_ok=True)  # what peft writes of every adapter
        for name, data in (keep or {}).items():
            (folder / name).write_bytes(data)
        read_bundle(folder)
    return read_bundle(target)


def write_with_vocabulary(
    path: str | os.PathLike[str], bundle: Bundle, ids: Tensor, keep: Mapping[str, bytes] | None = None
) -> Bundle:
    """Write a copy of `bundle` whose streams guess from the token ids `ids` [v], into the folder `path`.

    `path` may be the bundle's own folder. `keep`: as in `write_bundle`; card and results of the bundle are not copied,
    since they tell of it without these ids.
    """
    if bundle.stream_config is None:
        raise BundleError(f"{bundle.path} is a LoRA without streams, so nothing in it guesses from a vocabulary")
    with whole_folder(target := Path(path), check_replaceable) as folder:
        settings = _copied(bundle, folder, keep)
        write_sorted_json(folder / SSFT_CONFIG, {**settings, "format_version": VOCABULARY_VERSION})
        save_vocabulary(folder, ids)
        read_bundle(folder)
    return read_bundle(target)


def write_with_prune_head(
    path: str | os.PathLike[str],
    bundle: Bundle,
    head: StreamModules,
    provenance: dict[str, Any],
    keep: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a copy of `bundle` whose streams have the prune head of `head`, into the folder `path`.

    Every other tensor keeps its bits. provenance: how the head was trained, for `prune_head` in the copy's own. `path`,
    `keep`: as in `write_with_vocabulary`. Raises `BundleError` where the bundle's folder was changed since it was read.
    """
    if not bundle.unchanged():
        raise BundleError(f"{bundle.path}: changed while its prune head was trained, which does not fit it any more")
    with whole_folder(target := Path(path), check_replaceable) as folder:
        settings = _copied(bundle, folder, keep)
        settings["streams"]["prune_head_rank"] = head.config.prune_head_rank
        write_sorted_json(folder / SSFT_CONFIG, settings)
        weights = load_file(folder / STREAM_WEIGHTS)
        weights |= {name: value.detach().float().cpu().contiguous() for name, value in head.state_dict().items()}
        save_file(weights, folder / STREAM_WEIGHTS)
        write_sorted_json(folder / PROVENANCE, {**bundle.provenance, "prune_head": provenance})
        read_bundle(folder)
    return read_bundle(target)


def _copied(bundle: Bundle, folder: Path, keep: Mapping[str, bytes] | None) -> dict[str, Any]:
    """Copy what a bundle is into a new folder, and the files `keep`; returns what its `ssft_config.json` holds."""
    source = AdapterFiles(bundle.path)
    for name in filter(source.exists, (*HASHED, RUN, PROVENANCE, CURVE)):
        (folder / name).write_bytes(source.read(name))
    for name, data in (keep or {}).items():
        (folder / name).write_bytes(data)
    settings: dict[str, Any] = json.loads((folder / SSFT_CONFIG).read_text(encoding="utf-8"))
    return settings


def save_lora(file: Path, tensors: dict[str, Tensor], dtype: torch.dtype | None) -> None:
    """Write the tensors of one LoRA as peft does, in `dtype` if given; `BundleError` for values beyond its range."""
    narrow = {key: (value if dtype is None else value.to(dtype)).contiguous() for key, value in tensors.items()}
    for key, value in narrow.items():
        if not all_finite(value):
            raise BundleError(f"{key} has values beyond the range of {dtype}; set save_dtype=bfloat16 or float32")
    save_file(narrow, file, metadata={"format": "pt"})


def check_replaceable(target: Path) -> None:
    """Raise `BundleError` where a bundle in the place of `target` would destroy what is no bundle's own file."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir() or not is_bundle(target):
        raise BundleError(f"{target} exists and is no adapter bundle; choose another --output, nothing was written")
    foreign = sorted(path.name for path in target.iterdir() if path.name not in BUNDLE_FILES)
    if foreign:
        raise BundleError(
            f"{target} holds {foreign[0]}, which is no file of a bundle and would be lost; move it or choose another "
            "--output, nothing was written"
        )
