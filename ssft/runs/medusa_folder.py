"""The folder of Medusa heads, which `method=medusa` writes and the comparison of methods reads.

    medusa.json           format version, MedusaConfig, the base's fingerprint, hash of the adapter trained over
    medusa.safetensors    the heads, in the type the base computes in
    run.yaml, provenance.json   what reproduces them

Nothing in a folder is ever executed.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from ssft.bundle.fit import check_base, check_tensors, fill
from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import LORA_CONFIG, LORA_WEIGHTS
from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.errors import BundleError
from ssft.files import write_sorted_json
from ssft.schema import read, shown

CONFIG, WEIGHTS = "medusa.json", "medusa.safetensors"


@dataclass
class _Contents:
    """What stands in medusa.json."""

    format_version: Literal[1]
    medusa: MedusaConfig
    base: dict[str, str]
    """Its fingerprint."""
    adapter: dict[str, str | None]
    """The `name` of the adapter that the heads were trained over, and what `lora_sha256` said of it then."""


def write_heads(folder: Path, heads: MedusaHeads, adapted: Any, made_over: str) -> None:
    """Write the heads of the active adapter of `adapted` into a new folder, and read them again.

    `made_over` is what `lora_sha256` said when training began. Raises `BundleError` if the heads hold NaN.
    """
    adapter = {"name": adapted.active.name, "lora_sha256": made_over}
    write_sorted_json(folder / CONFIG, asdict(_Contents(1, heads.config, adapted.bank.fingerprint, adapter)))
    dtype = adapted.model.dtype
    save_file({k: v.detach().to("cpu", dtype).contiguous() for k, v in heads.state_dict().items()}, folder / WEIGHTS)
    _read(folder, adapted, made_over)


def load_medusa(folder: str | os.PathLike[str], adapted: Any) -> MedusaHeads:
    """The heads in `folder`, ready to guess for the active adapter of `adapted`: its device, its type, no gradients.

    Raises:
        BundleError: a damaged or incomplete folder, or heads of another base, adapter or shape.
    """
    return _read(folder, adapted, lora_sha256(adapted))


def lora_sha256(adapted: Any) -> str:
    """Hash of the two files of the text's LoRA, as they were when it was loaded; empty where the text is the bare
    base's, as under a lossless adapter: heads read the main state, which no LoRA of streams moves.

    Not the whole bundle's: another draft tree or other streams change nothing that the heads read.

    Raises:
        BundleError: the folder no longer holds what was loaded.
    """
    bundle = adapted.active.bundle
    if bundle is None or bundle.text_lora is None:
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
    try:
        contents: _Contents = read(_Contents, files.json(CONFIG), "")
        contents.medusa.check_medusa()
    except ValueError as error:  # an unknown setting is one
        raise BundleError(f"{path}: {str(error)[:200]}") from error
    again = "train heads for this one (ssft train with method=medusa)"
    check_base(path, contents.base, adapted.bank.fingerprint, f"decode over that base, or {again}")
    if contents.adapter.get("lora_sha256") != made_over:
        raise BundleError(
            f"{path}: trained over another LoRA, that of {shown(contents.adapter.get('name'))} as it was then; decode "
            f"with that adapter, or {again}"
        )
    vocab_size, hidden = adapted.hooks.backbone.head.weight.shape
    # On no device: what the config asks for is compared before any memory is taken.
    with torch.device("meta"):
        heads = MedusaHeads(contents.medusa, hidden, vocab_size)
    most = sum(p.numel() for p in heads.parameters()) * 8 + 2**20
    check_tensors(files.path / WEIGHTS, files.shapes(WEIGHTS, most), heads, CONFIG)
    return fill(heads, files.path / WEIGHTS, files.tensors(WEIGHTS), adapted.model.dtype, adapted.model.device)
