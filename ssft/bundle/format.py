"""The adapter bundle: one folder that plain peft loads as a LoRA and ssft as a LoRA with streams.

    adapter_config.json, adapter_model.safetensors   what peft writes
    ssft_config.json                                 format version, streams, tree, fingerprint of the base
    streams.safetensors                              P_j (and f_η and o_θ where used)
    stream_lora_config.json, stream_lora.safetensors the streams' own LoRA, as peft writes one (formats 2 and 3)
    draft_vocabulary.safetensors                     the token ids that streams guess from (format 3 only)
    run.yaml, provenance.json                        what reproduces it
    README.md, results.json, training.png            the card, the measurements it shows, its picture (optional)

`ssft_config.json` names the base as ssft knows it (an alias, a hub id, a folder's last part), the LoRA's config as
others find it: by the hub's id, or where a folder lay. The bundle's hash does not depend on the latter (`folder.py`).

safetensors and JSON only: nothing in a bundle is ever executed. A bundle is read in two stages (`read.py`): its outline
is what the configs and the headers say; whether that fits a base (`fit.py`) is known before any tensor takes memory.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ssft.base.load import find_base
from ssft.bundle.folder import AdapterFiles, stamp
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError
from ssft.streams.config import StreamConfig

FORMAT_VERSION, OWN_LORA_VERSION, VOCABULARY_VERSION = 1, 2, 3
"""What a bundle says of itself: 2 where streams have a LoRA of their own, 3 where they have a draft vocabulary (and a
LoRA of their own or none); a reader of a lower format would miss it."""

LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SSFT_CONFIG, STREAM_WEIGHTS = "ssft_config.json", "streams.safetensors"
STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS = "stream_lora_config.json", "stream_lora.safetensors"
DRAFT_VOCABULARY = "draft_vocabulary.safetensors"
RUN, PROVENANCE = "run.yaml", "provenance.json"
CARD, RESULTS, CURVE = "README.md", "results.json", "training.png"
WEIGHTS = (LORA_WEIGHTS, STREAM_WEIGHTS, STREAM_LORA_WEIGHTS, DRAFT_VOCABULARY)
HASHED = (LORA_CONFIG, SSFT_CONFIG, STREAM_LORA_CONFIG, *WEIGHTS)
"""What decides the text; in the order of reading, which the hash depends on."""
BUNDLE_FILES = (*HASHED, RUN, PROVENANCE, CARD, RESULTS, CURVE)

MAX_HIDDEN, MAX_NAME = 65_536, 256
"""Widest base that the size limit of `streams.safetensors` allows for; characters of a base's name, which goes to
terminals and into commands."""


@dataclass
class LoraPart:
    """One LoRA of a bundle, with the rows that it is for.

    rows: "all" where the text comes from it, "streams" where it acts on the streams alone (paper §3.2.4, lossless).
    config: as peft writes it. weights: the tensors by peft's names. config_file, weights_file: where they stand.
    parameters, dtype: how many, and their types as text; both stay when the tensors are released.
    """

    rows: Literal["all", "streams"]
    config: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    config_file: Path
    weights_file: Path
    parameters: int = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = sum(tensor.numel() for tensor in self.weights.values())
        self.dtype = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in self.weights.values()}))


@dataclass
class Bundle:
    """A checked adapter folder. `stream_config` is None for a plain peft LoRA, which decodes without streams.

    loras: the LoRA that plain peft loads, then the streams' own where there is one beside it. draft_vocabulary [v]: the
    token ids that streams guess from, sorted, each once; None: all that the base has. In an outline all tensors are on
    the device "meta". weights_sha256: over the JSON configs and, but for an outline, all safetensors files; a
    folder that gives another one later was changed. The tensors stay until `release`, the counts for good.
    """

    path: Path
    format_version: int
    stream_config: StreamConfig | None
    tree: TreeConfig
    base: dict[str, str]
    loras: tuple[LoraPart, ...]
    stream_weights: dict[str, Tensor] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    files: AdapterFiles = field(repr=False)
    draft_vocabulary: Tensor | None = field(default=None, repr=False)
    stream_parameters: int = field(init=False)
    prune_parameters: int = field(init=False)
    draft_ids: int = field(init=False)
    weights_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        self.stream_parameters = sum(tensor.numel() for tensor in self.stream_weights.values())
        self.prune_parameters = sum(t.numel() for name, t in self.stream_weights.items() if name.startswith("prune_"))
        self.draft_ids = 0 if self.draft_vocabulary is None else len(self.draft_vocabulary)
        self.weights_sha256 = self.files.sha256

    @property
    def text_lora(self) -> LoraPart | None:
        """The LoRA that all rows run with; None where the text is the bare base's."""
        return next((part for part in self.loras if part.rows == "all"), None)

    @property
    def streams_own_lora(self) -> LoraPart | None:
        """The LoRA that acts on the streams alone, if there is one."""
        return next((part for part in self.loras if part.rows == "streams"), None)

    @property
    def text_sha256(self) -> str:
        """Hash of what the text depends on: the base's id and the LoRA of all rows; an outline has none. Streams, trees
        and vocabularies only guess, so that what was measured of the text holds for every bundle with the same."""
        names = () if self.text_lora is None else (LORA_CONFIG, LORA_WEIGHTS)
        parts = [self.base.get("id", ""), *(self.files.hashes[name] for name in names)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def base_name(self) -> str | None:
        """The base to load, as `resolve_base` takes it; None where the folder does not say which one."""
        own, public = self.base.get("id", ""), self.loras[0].config.get("base_model_name_or_path") or ""
        return find_base(own, public) or None

    @property
    def extra_parameters(self) -> int:
        """How many parameters stand beside the LoRA that plain peft loads."""
        return self.stream_parameters + sum(part.parameters for part in self.loras[1:])

    @property
    def weights_bytes(self) -> int:
        """Bytes on disk of all safetensors files, as they were read."""
        return sum(size for name, (size, *_) in self.files.stamps.items() if name in WEIGHTS)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the bundle's own files."""
        return sum((self.path / name).stat().st_size for name in BUNDLE_FILES if (self.path / name).is_file())

    def release(self) -> None:
        """Give the tensors' memory back once they were copied; checking or loading needs the folder read again."""
        for part in self.loras:
            part.weights = {}
        self.stream_weights, self.draft_vocabulary = {}, None

    def unchanged(self) -> bool:
        """Whether the folder still holds what was read; files are hashed again only where their stamps differ."""
        try:
            if {name: stamp(self.path / name) for name in HASHED if (self.path / name).exists()} == self.files.stamps:
                return True
            files = AdapterFiles(self.path)
            files.base_id = self.files.base_id
            for name in filter(files.exists, HASHED):
                files.read(name)
        except (BundleError, OSError):
            return False
        return files.sha256 == self.weights_sha256


def is_bundle(path: Path) -> bool:
    """Whether `path` looks like an adapter folder."""
    return (path / LORA_CONFIG).is_file()
