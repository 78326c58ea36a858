"""The adapter bundle, format 1: one folder that plain peft loads as a LoRA and ssft as a LoRA with streams.

    adapter_config.json, adapter_model.safetensors   exactly what peft writes
    ssft_config.json                                 format version, streams, tree, fingerprint of the base
    streams.safetensors                              P_j (and f_η where used)
    run.yaml, provenance.json                        what reproduces it; README.md is the card

safetensors and JSON only: nothing in a bundle is ever executed. Everything is checked before a model is touched.
"""

import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError
from ssft.streams.config import StreamConfig
from ssft.streams.modules import CONTAINER, StreamModules, streams_of

FORMAT_VERSION = 1
LORA_CONFIG, LORA_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SSFT_CONFIG, STREAM_WEIGHTS = "ssft_config.json", "streams.safetensors"
RUN, PROVENANCE, CARD = "run.yaml", "provenance.json", "README.md"
BUNDLE_FILES = (LORA_CONFIG, LORA_WEIGHTS, SSFT_CONFIG, STREAM_WEIGHTS, RUN, PROVENANCE, CARD)
LORA_PREFIX = "base_model.model."


@dataclass
class Bundle:
    """A checked adapter folder. `stream_config` is None for a plain peft LoRA, which decodes without streams."""

    path: Path
    format_version: int
    stream_config: StreamConfig | None
    tree: TreeConfig
    base: dict[str, str]
    lora: dict[str, Any]
    lora_weights: dict[str, Tensor] = field(repr=False)
    stream_weights: dict[str, Tensor] = field(repr=False)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def extra_parameters(self) -> int:
        """Parameters beside the LoRA: P_j and f_η."""
        return sum(t.numel() for t in self.stream_weights.values())

    @property
    def lora_parameters(self) -> int:
        """Parameters of the LoRA."""
        return sum(t.numel() for t in self.lora_weights.values())

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the bundle's own files."""
        return sum((self.path / name).stat().st_size for name in BUNDLE_FILES if (self.path / name).is_file())

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
                    f"give --base {self.base.get('id')} or train an adapter for this base"
                )
        for key, tensor in self.lora_weights.items():
            module, kind = _lora_target(self.path, key)
            try:
                layer = model.get_submodule(module)
            except AttributeError:
                raise BundleError(
                    f"{self.path / LORA_WEIGHTS}: {key} names the module {module}, which the base does not have; "
                    "the adapter was made for another architecture"
                ) from None
            rank = self.lora.get("rank_pattern", {}).get(module, self.lora["r"])
            width = getattr(layer, "in_features" if kind == "lora_A" else "out_features", None)
            expected = (rank, width) if kind == "lora_A" else (width, rank)
            if width is not None and tuple(tensor.shape) != expected:
                raise BundleError(
                    f"{self.path / LORA_WEIGHTS}: {key} has shape {tuple(tensor.shape)}, the base needs {expected}"
                )


# -- reading ----------------------------------------------------------------------------------------------------


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check an adapter folder; raises `BundleError` naming the file and what is wrong with it."""
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"adapter {str(path)!r} is no folder; give the folder that `ssft train --output` wrote")
    lora = _read_json(folder / LORA_CONFIG)
    if lora.get("peft_type") != "LORA" or not isinstance(lora.get("r"), int):
        raise BundleError(f"{folder / LORA_CONFIG}: peft_type is {lora.get('peft_type')!r}; only LoRA adapters decode")
    weights = _read_tensors(folder / LORA_WEIGHTS)
    # A plain peft folder has none of our files; half of them is damage.
    if not (folder / SSFT_CONFIG).exists() and not (folder / STREAM_WEIGHTS).exists():
        return Bundle(folder, 0, None, TreeConfig(), {}, lora, weights, {})
    settings = _read_json(folder / SSFT_CONFIG)
    version = settings.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{folder / SSFT_CONFIG}: format_version is {version!r}, this ssft reads {FORMAT_VERSION}; "
            "a newer bundle needs a newer ssft"
        )
    streams = _read_section(folder, settings, "streams", StreamConfig)
    tree = _read_section(folder, settings, "tree", TreeConfig)
    try:
        streams.check_streams()
        tree.check_tree()
    except ConfigError as error:
        raise BundleError(f"{folder / SSFT_CONFIG}: {error}") from error
    base = settings.get("base")
    needed = ("id", "architecture", "config_sha256", "tokenizer_sha256")
    if not isinstance(base, dict) or not all(isinstance(base.get(key), str) for key in needed):
        raise BundleError(f"{folder / SSFT_CONFIG}: 'base' must hold the strings {', '.join(needed)}")
    stream_weights = _read_tensors(folder / STREAM_WEIGHTS)
    provenance = _read_json(folder / PROVENANCE) if (folder / PROVENANCE).exists() else {}
    return Bundle(folder, version, streams, tree, base, lora, weights, stream_weights, provenance)


def load_stream_modules(bundle: Bundle, hidden_size: int) -> StreamModules:
    """The stream parameters of a checked bundle as a module for a base of width h = `hidden_size`."""
    assert bundle.stream_config is not None
    modules = StreamModules(bundle.stream_config, hidden_size)
    expected = {key: tuple(value.shape) for key, value in modules.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in bundle.stream_weights.items()}
    if expected != found:
        raise BundleError(
            f"{bundle.path / STREAM_WEIGHTS}: holds {found}, but {SSFT_CONFIG} and the base need {expected}"
        )
    modules.load_state_dict(bundle.stream_weights)
    return modules.requires_grad_(False).eval()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: missing; the folder is no complete adapter bundle") from None
    except (ValueError, OSError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


def _read_section(folder: Path, settings: dict[str, Any], name: str, kind: Any) -> Any:
    """One section of ssft_config.json as its dataclass; every field must be known and of the default's type."""
    section = settings.get(name)
    if not isinstance(section, dict):
        raise BundleError(f"{folder / SSFT_CONFIG}: {name!r} is missing or no object")
    types = {f.name: type(f.default) for f in fields(kind)}
    for key, value in section.items():
        if key not in types:
            raise BundleError(f"{folder / SSFT_CONFIG}: {name}.{key} is unknown to this version of ssft")
        if type(value) is not types[key]:
            raise BundleError(f"{folder / SSFT_CONFIG}: {name}.{key}={value!r}, expected {types[key].__name__}")
    return kind(**section)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, checked to be finite floating-point numbers."""
    if not path.is_file():
        raise BundleError(f"{path}: missing; the folder is no complete adapter bundle")
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{path}: no valid safetensors file ({error}); it is truncated or of another kind") from error
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BundleError(f"{path}: {key} has dtype {tensor.dtype}, expected a floating-point type")
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{path}: {key} holds NaN or infinite values")
    return tensors


def _lora_target(path: Path, key: str) -> tuple[str, str]:
    """`base_model.model.X.lora_A.weight` -> ("X", "lora_A")."""
    for kind in ("lora_A", "lora_B"):
        if key.startswith(LORA_PREFIX) and key.endswith(f".{kind}.weight"):
            return key[len(LORA_PREFIX) : -len(f".{kind}.weight")], kind
    raise BundleError(f"{path / LORA_WEIGHTS}: {key} is no weight of a LoRA")


# -- writing ----------------------------------------------------------------------------------------------------


def write_bundle(
    path: str | os.PathLike[str],
    peft_model: Any,
    *,
    tree: TreeConfig,
    base: dict[str, str],
    run_yaml: str = "",
    provenance: dict[str, Any] | None = None,
    card: str = "",
    adapter: str = "default",
) -> Bundle:
    """Write the bundle of one trained adapter; the folder appears whole or not at all.

    Args:
        path: target folder; a bundle that is there already is replaced.
        peft_model: `PeftModel` with the adapter and, attached, its streams.
        tree: default draft tree.
        base: fingerprint of the base (`ssft.bases.base_fingerprint`).
        run_yaml, provenance: settings that reproduce the run; versions, commit, history.
        card: text of README.md.
    """
    target = Path(path)
    if target.exists() and not is_bundle(target) and (not target.is_dir() or any(target.iterdir())):
        raise BundleError(f"{target} exists and is no adapter bundle; choose another --output, nothing was written")
    modules = streams_of(peft_model, adapter)
    if modules is None:
        raise BundleError("the model has no streams to save; train it with StreamSFTTrainer")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / "bundle"
        with _without_streams(peft_model):
            peft_model.save_pretrained(folder, selected_adapters=[adapter], save_embedding_layers=False)
        config = json.loads((folder / LORA_CONFIG).read_text())
        # peft stores where the base lay on this machine.
        config["base_model_name_or_path"] = base["id"]
        _write_json(folder / LORA_CONFIG, config)
        settings = {"format_version": FORMAT_VERSION, "streams": modules.config.stream_dict()}
        _write_json(folder / SSFT_CONFIG, {**settings, "tree": tree.tree_dict(), "base": base})
        weights = {key: value.detach().float().cpu().contiguous() for key, value in modules.state_dict().items()}
        save_file(weights, folder / STREAM_WEIGHTS)
        (folder / RUN).write_text(run_yaml, encoding="utf-8")
        _write_json(folder / PROVENANCE, provenance or {})
        (folder / CARD).write_text(card, encoding="utf-8")
        read_bundle(folder)
        if target.exists():
            os.replace(target, Path(scratch) / "replaced")
        os.replace(folder, target)
    return read_bundle(target)


def is_bundle(path: Path) -> bool:
    """Whether `path` looks like an adapter folder."""
    return (path / LORA_CONFIG).is_file()


@contextmanager
def _without_streams(peft_model: Any) -> Any:
    """peft saves whatever stands on its tuner; the LoRA file is to hold the LoRA alone."""
    container = peft_model.base_model._modules.pop(CONTAINER)
    try:
        yield
    finally:
        peft_model.base_model.add_module(CONTAINER, container)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
