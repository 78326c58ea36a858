"""The adapter bundle: one folder that plain peft loads as a LoRA and ssft as a LoRA with streams.

    adapter_config.json, adapter_model.safetensors   exactly what peft writes
    ssft_config.json                                 format version, streams, tree, fingerprint of the base
    streams.safetensors                              P_j (and f_η where used)
    stream_lora_config.json, stream_lora.safetensors the streams' own LoRA, as peft writes one (format 2 only)
    run.yaml, provenance.json                        what reproduces it
    README.md, results.json, training.png            the card, the measurements it shows, its picture (optional)

safetensors and JSON only: nothing in a bundle is ever executed. Everything is checked before a model is touched; what
a foreign folder must not do to the reader (`_files.py`) included.
"""

import os
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ssft.bundle.folder import MAX_WEIGHTS, AdapterFiles, stamp
from ssft.bundle.lora_config import check_patterns, check_types, lora_rank
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError
from ssft.streams.config import StreamConfig

FORMAT_VERSION, OWN_LORA_VERSION = 1, 2
"""What a bundle says of itself: 2 where streams have a LoRA of their own, which a reader of format 1 would miss."""

LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SSFT_CONFIG, STREAM_WEIGHTS = "ssft_config.json", "streams.safetensors"
STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS = "stream_lora_config.json", "stream_lora.safetensors"
RUN, PROVENANCE = "run.yaml", "provenance.json"
CARD, RESULTS, CURVE = "README.md", "results.json", "training.png"
WEIGHTS = (LORA_WEIGHTS, STREAM_WEIGHTS, STREAM_LORA_WEIGHTS)
BUNDLE_FILES = (
    *(LORA_CONFIG, LORA_WEIGHTS, SSFT_CONFIG, STREAM_WEIGHTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS),
    *(RUN, PROVENANCE, CARD, RESULTS, CURVE),
)
LORA_PREFIX = "base_model.model."
MAX_HIDDEN = 65_536
"""Widest base that the size limit of `streams.safetensors` allows for."""
MAX_NAME = 256
"""Characters of a base's name, which goes to terminals and into commands."""

HASHED = (LORA_CONFIG, SSFT_CONFIG, STREAM_LORA_CONFIG, LORA_WEIGHTS, STREAM_WEIGHTS, STREAM_LORA_WEIGHTS)
"""What decides the text; in the order of reading, which the hash depends on."""

# What peft writes beside A and B, and why their product cannot hold it.
_NO_LOW_RANK_SUM = {
    "lora_magnitude_vector": "DoRA rescales every output by a magnitude of its own",
    "lora_embedding_": "on an embedding a LoRA is a table, not a product with the input",
    "lora_B.bias": "lora_bias adds a trained bias",
    "modules_to_save": "a module of the base is replaced as a whole",
}


@dataclass
class LoraPart:
    """One LoRA of a bundle: peft's config, the tensors by peft's names, and the files in which they stand."""

    config: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    config_file: Path
    weights_file: Path


@dataclass
class Bundle:
    """A checked adapter folder. `stream_config` is None for a plain peft LoRA, which decodes without streams.

    `lora` and `lora_weights` are what plain peft loads; `stream_lora` and its weights the LoRA of the streams' own,
    where there is one. `weights_sha256` covers the JSON configs and all safetensors files: a folder that is read again
    with another hash was changed. The tensors stay until `release`; the counts stay for good: parameters of the LoRA,
    those beside it, of which the streams' own LoRA, the first LoRA's type, and the bytes of all safetensors files.
    """

    path: Path
    format_version: int
    stream_config: StreamConfig | None
    tree: TreeConfig
    base: dict[str, str]
    lora: dict[str, Any]
    lora_weights: dict[str, Tensor] = field(repr=False)
    stream_weights: dict[str, Tensor] = field(repr=False)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)
    stream_lora: dict[str, Any] | None = None
    stream_lora_weights: dict[str, Tensor] = field(default_factory=dict, repr=False)
    weights_sha256: str = ""
    weights_bytes: int = 0
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    lora_parameters: int = field(init=False)
    extra_parameters: int = field(init=False)
    stream_lora_parameters: int = field(init=False)
    lora_dtype: str = field(init=False)
    released: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.lora_dtype = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in self.lora_weights.values()}))
        self.lora_parameters = sum(t.numel() for t in self.lora_weights.values())
        self.stream_lora_parameters = sum(t.numel() for t in self.stream_lora_weights.values())
        self.extra_parameters = self.stream_lora_parameters + sum(t.numel() for t in self.stream_weights.values())

    @property
    def text_lora(self) -> LoraPart | None:
        """The LoRA that the text comes from; None where that is the bare base's (paper §3.2.4, lossless)."""
        return None if self._is_for_streams_alone else self._first_lora

    @property
    def streams_own_lora(self) -> LoraPart | None:
        """The LoRA that acts on the streams alone, if there is one."""
        if self._is_for_streams_alone:
            return self._first_lora
        if self.stream_lora is None:
            return None
        files = self.path / STREAM_LORA_CONFIG, self.path / STREAM_LORA_WEIGHTS
        return LoraPart(self.stream_lora, self.stream_lora_weights, *files)

    @property
    def loras(self) -> list[LoraPart]:
        """Both of them, of those that there are."""
        return [part for part in (self.text_lora, self.streams_own_lora) if part is not None]

    @property
    def _first_lora(self) -> LoraPart:
        return LoraPart(self.lora, self.lora_weights, self.path / LORA_CONFIG, self.path / LORA_WEIGHTS)

    @property
    def _is_for_streams_alone(self) -> bool:
        """Whether what plain peft loads is no LoRA for the text."""
        streams = self.stream_config
        return streams is not None and streams.mode == "lossless" and self.stream_lora is None

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the bundle's own files."""
        return sum((self.path / name).stat().st_size for name in BUNDLE_FILES if (self.path / name).is_file())

    def release(self) -> None:
        """Give the tensors' memory back once they were copied; checking or loading needs the folder read again."""
        self.lora_weights, self.stream_weights, self.stream_lora_weights, self.released = {}, {}, {}, True

    def unchanged(self) -> bool:
        """Whether the folder still holds what was read; files are hashed again only where their stamps differ."""
        try:
            if {name: stamp(self.path / name) for name in HASHED if (self.path / name).exists()} == self.stamps:
                return True
            files = AdapterFiles(self.path)
            for name in HASHED:
                if files.exists(name):
                    files.read(name)
        except (BundleError, OSError):
            return False
        return files.sha256 == self.weights_sha256

    def check_held(self) -> None:
        """Raise `BundleError` if the tensors were released: what is checked or loaded then would be nothing."""
        if self.released:
            raise BundleError(f"{self.path}: its tensors were released from memory; read the bundle again")

    def check_base(self, model: Any, fingerprint: dict[str, str]) -> None:
        """Raise `BundleError` unless this adapter fits `model` (a causal LM) with that fingerprint."""
        for key, meaning in (
            ("architecture", "architecture"),
            ("config_sha256", "model shape"),
            ("tokenizer_sha256", "tokenizer"),
        ):
            if self.base and self.base.get(key) != fingerprint[key]:
                raise BundleError(
                    f"{self.path}: made for base {self.base.get('id')!r}, whose {meaning} "
                    f"({str(self.base.get(key))[:16]}) is not that of {fingerprint['id']!r} ({fingerprint[key][:16]}); "
                    f"give --base {shlex.quote(str(self.base.get('id')))} or train an adapter for this base"
                )
        for part in self.loras:
            check_patterns(part.config_file, part.config, [name for name, _ in model.named_modules()])
        self.check_shapes(model)

    def check_shapes(self, model: Any) -> None:
        """Raise `BundleError` unless `model` has every module of the LoRA, and A is [r, in] and B [out, r] there."""
        self.check_held()
        for part in self.loras:
            for key, tensor in part.weights.items():
                module, kind = lora_target(part.weights_file, key)
                try:
                    layer = model.get_submodule(module)
                except AttributeError:
                    raise BundleError(
                        f"{part.weights_file}: {key} names the module {module}, which the base does not have; "
                        "the adapter was made for another architecture"
                    ) from None
                rank, sizes = lora_rank(part.config, module), linear_sizes(layer)
                if sizes is None:
                    continue
                expected = (rank, sizes[0]) if kind == "lora_A" else (sizes[1], rank)
                if tuple(tensor.shape) != expected:
                    raise BundleError(
                        f"{part.weights_file}: {key} has shape {tuple(tensor.shape)}, the base needs {expected} at "
                        f"the rank {rank} of {part.config_file.name}"
                    )


def linear_sizes(layer: Any) -> tuple[int, int] | None:
    """(in, out) of a linear layer, quantised or not; None for anything else."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Conv1D):  # GPT-2's linear layer: the weight is [in, out]
        return layer.weight.shape[0], layer.weight.shape[1]
    sizes = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])


def lora_target(file: Path, key: str) -> tuple[str, str]:
    """`base_model.model.X.lora_A.weight` -> ("X", "lora_A"); `file` is where the key stands."""
    for kind in ("lora_A", "lora_B"):
        if key.startswith(LORA_PREFIX) and key.endswith(f".{kind}.weight"):
            return key[len(LORA_PREFIX) : -len(f".{kind}.weight")], kind
    reason = next((text for part, text in _NO_LOW_RANK_SUM.items() if part in key), "expected lora_A and lora_B only")
    raise BundleError(f"{file}: {key} is no weight of a LoRA that decodes here: {reason}")


# -- reading ----------------------------------------------------------------------------------------------------


def read_bundle(path: str | os.PathLike[str], *, outline: bool = False) -> Bundle:
    """Read and check an adapter folder; raises `BundleError` naming the file and what is wrong with it.

    With `outline` no weights are read: the tensors are on the device "meta", with the shapes and types of the headers,
    and the hash is that of the configs alone. `fit.check_fit` then tells what cannot fit a base before
    any memory is taken for it.
    """
    files = AdapterFiles(path)
    tensors = files.shapes if outline else files.tensors
    folder = files.path
    lora = _read_lora_config(files, LORA_CONFIG)
    # A plain peft folder has none of our files; half of them is damage.
    if not any(map(files.exists, (SSFT_CONFIG, STREAM_WEIGHTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS))):
        weights = tensors(LORA_WEIGHTS)
        return Bundle(folder, 0, None, TreeConfig(), {}, lora, weights, {}, **_state(files))
    settings = files.json(SSFT_CONFIG)
    version = settings.get("format_version")
    if version not in (FORMAT_VERSION, OWN_LORA_VERSION) or type(version) is not int:  # True == 1.0 == 1
        raise BundleError(
            f"{folder / SSFT_CONFIG}: format_version is {version!r}, this ssft reads {FORMAT_VERSION} and "
            f"{OWN_LORA_VERSION}; a newer bundle needs a newer ssft"
        )
    streams = _read_section(folder, settings, "streams", StreamConfig)
    tree = _read_section(folder, settings, "tree", TreeConfig)
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
    base = settings.get("base")
    needed = ("id", "architecture", "config_sha256", "tokenizer_sha256")
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in needed):
        raise BundleError(f"{folder / SSFT_CONFIG}: 'base' must hold the strings {', '.join(needed)}")
    for key in needed:
        _check_name(folder / SSFT_CONFIG, f"base.{key}", base[key])
    rank = streams.projection_rank
    # P [γ, h] and f_η [2, η, h] in float64 at the widest, and a header.
    limit = (streams.num_streams + 2 * min(rank, MAX_HIDDEN)) * MAX_HIDDEN * 8 + 2**20
    shapes = files.shapes(STREAM_WEIGHTS, min(limit, MAX_WEIGHTS))
    if rank and not any(rank in tensor.shape for tensor in shapes.values()):
        raise BundleError(f"{folder / STREAM_WEIGHTS}: no tensor has the side projection_rank={rank} of {SSFT_CONFIG}")
    stream_lora = _read_lora_config(files, STREAM_LORA_CONFIG) if has_own else None
    weights = tensors(LORA_WEIGHTS)
    stream_weights = tensors(STREAM_WEIGHTS, min(limit, MAX_WEIGHTS))
    own: dict[str, Any] = {
        "stream_lora": stream_lora,
        "stream_lora_weights": tensors(STREAM_LORA_WEIGHTS) if has_own else {},
    }
    provenance = files.json(PROVENANCE, hashed=False) if files.exists(PROVENANCE) else {}
    return Bundle(
        folder, version, streams, tree, base, lora, weights, stream_weights, provenance, **own, **_state(files)
    )


def _read_lora_config(files: AdapterFiles, name: str) -> dict[str, Any]:
    """peft's config in the file `name`, with values of the right types."""
    lora = files.json(name)
    check_types(files.path / name, lora)
    _check_name(files.path / name, "base_model_name_or_path", lora.get("base_model_name_or_path") or "")
    return lora


def _check_name(path: Path, key: str, value: Any) -> None:
    """Raise `BundleError` unless `value` of the file `path` is a string that a terminal and a message can show."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_NAME:
        size = f", {len(value):,} characters" if isinstance(value, str) else ""
        raise BundleError(
            f"{path}: {key}={repr(value)[:60]}{size}; expected a string of at most {MAX_NAME} printable characters"
        )


def _state(files: AdapterFiles) -> dict[str, Any]:
    sizes = {name: size for name, (size, *_) in files.stamps.items()}
    weights_bytes = sum(sizes.get(name, 0) for name in WEIGHTS)
    return {"weights_sha256": files.sha256, "weights_bytes": weights_bytes, "stamps": files.stamps}


def _read_section(folder: Path, settings: dict[str, Any], name: str, kind: Any) -> Any:
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


def is_bundle(path: Path) -> bool:
    """Whether `path` looks like an adapter folder."""
    return (path / LORA_CONFIG).is_file()
