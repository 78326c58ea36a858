"""Reading an adapter folder that somebody else made: links, sizes and headers are checked before memory is taken.

safetensors and JSON only. Files are read into memory of our own instead of being mapped: the hash then covers the very
bytes that were loaded, and a file that is overwritten in place meanwhile cannot end the process (SIGBUS).
"""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from ssft.errors import BundleError

MAX_JSON = 16 * 2**20
MAX_WEIGHTS = 16 * 2**30
"""Bytes. Rank 256 on every linear layer of a 70B model takes 13 GiB in float32."""

_DTYPES = ("F64", "F32", "F16", "BF16")


class AdapterFiles:
    """One reading of the folder `path`; every method raises `BundleError` naming the file and what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise BundleError(f"adapter {str(path)!r} is no folder; give the folder that `ssft train --output` wrote")
        self._root = self.path.resolve()
        self._hash = hashlib.sha256()
        self.stamps: dict[str, tuple[int, ...]] = {}
        """By name, what `stamp` said of every hashed file just before it was read."""

    @property
    def sha256(self) -> str:
        """Hash over names, lengths and bytes of the hashed files read so far, in the order of reading."""
        return self._hash.hexdigest()

    def exists(self, name: str) -> bool:
        """Whether the folder has an entry `name`, be it a broken link."""
        return os.path.lexists(self.path / name)

    def json(self, name: str, hashed: bool = True) -> dict[str, Any]:
        """The object in a JSON file of at most 16 MiB; a key that stands twice is an error, not the last one."""
        data = self.read(name, MAX_JSON, hashed)
        try:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{self.path / name}: not readable as JSON ({error}); the file is damaged") from error
        if not isinstance(value, dict):
            raise BundleError(f"{self.path / name}: holds a {type(value).__name__}, expected an object")
        return value

    def tensors(self, name: str, max_bytes: int = MAX_WEIGHTS) -> dict[str, Tensor]:
        """All tensors of a safetensors file: finite floating-point numbers, none of them empty; each owns its memory.

        While it runs, the file's bytes are in memory twice.
        """
        path = self._locate(name, max_bytes)
        try:
            # Maps the file and reads its header, whose offsets the library checks against the file's size.
            with safe_open(path, framework="pt") as handle:
                for key in handle.keys():  # noqa: SIM118 (no mapping)
                    entry = handle.get_slice(key)
                    if entry.get_dtype() not in _DTYPES:
                        raise BundleError(
                            f"{self.path / name}: {key} has dtype {entry.get_dtype()}, expected a floating-point type "
                            f"({', '.join(_DTYPES)})"
                        )
                    if 0 in entry.get_shape():
                        raise BundleError(f"{self.path / name}: {key} has shape {entry.get_shape()} and so no element")
            # By name: the library's own order differs from process to process.
            tensors = dict(sorted(load(self.read(name, max_bytes)).items()))
        except (SafetensorError, OSError, ValueError) as error:
            raise BundleError(
                f"{self.path / name}: no valid safetensors file ({error}); it is truncated or of another kind"
            ) from error
        for key, tensor in tensors.items():
            if not all_finite(tensor):
                raise BundleError(f"{self.path / name}: {key} holds NaN or infinite values")
        return tensors

    def read(self, name: str, max_bytes: int = MAX_WEIGHTS, hashed: bool = True) -> bytes:
        """The bytes of a file that may have at most `max_bytes`."""
        path = self._locate(name, max_bytes)
        try:
            if hashed:
                self.stamps[name] = stamp(path)
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path / name}: cannot be read ({error})") from error
        if hashed:
            self._hash.update(f"{name} {len(data)}\n".encode())
            self._hash.update(data)
        return data

    def _locate(self, name: str, max_bytes: int) -> Path:
        """The regular file behind `name`, which must lie in the folder (or in the hub cache's store)."""
        path = self.path / name
        try:
            target = path.resolve(strict=True)
            size = target.stat().st_size
        except FileNotFoundError:
            raise BundleError(f"{path}: missing; the folder is no complete adapter bundle") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13
            raise BundleError(f"{path}: cannot be read ({error})") from error
        if not target.is_relative_to(self._root) and not _in_hub_store(self._root, target):
            raise BundleError(
                f"{path}: a link to {target}, outside the adapter folder; put the file itself into the folder"
            )
        if not target.is_file():
            raise BundleError(f"{path}: no regular file")
        if size > max_bytes:
            raise BundleError(
                f"{path}: {size:,} bytes, but no adapter needs more than {max_bytes:,} here; the file is damaged"
            )
        return target


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor with elements holds neither NaN nor infinity."""
    # NaN wins in aminmax, which takes a twentieth of the time of isfinite.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def stamp(path: Path) -> tuple[int, ...]:
    """(bytes, and what else the system changes with a file): equal stamps mean the same content, for practical ends."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _in_hub_store(root: Path, target: Path) -> bool:
    """Whether `target` is where the hub's cache keeps the files of the snapshot that holds `root`.

    The cache's snapshots hold nothing but links: `<cache>/models--x/snapshots/<commit>/file` points into
    `<cache>/models--x/blobs/`, whose entries may be links again, into `<cache>/blobs/<2 digits>/` that all repositories
    share (huggingface_hub 2).
    """
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots":
            repository = folder.parent.parent
            shared = "--" in repository.name and target.parent.parent == repository.parent / "blobs"
            return shared or target.parent == repository / "blobs"
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} stands twice")
    return value
