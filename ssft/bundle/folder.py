"""Reading an adapter folder that somebody else made: links, sizes and headers are checked before memory is taken.

safetensors and JSON only. Weights are read into memory of our own instead of being mapped: the hash then covers the
very bytes that were loaded, and a file that is overwritten meanwhile cannot end the process (SIGBUS).
"""

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from ssft.errors import BundleError
from ssft.files import parse_json
from ssft.schema import PATH, check

MAX_JSON = 16 * 2**20
MAX_WEIGHTS = 16 * 2**30
"""Bytes. Rank 256 on every linear layer of a 70B model takes 13 GiB in float32."""
MAX_VALUES = 1_000_000
"""Values of one JSON text: as Python objects the shortest take some thirty times their bytes."""

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INTEGERS = {"I64": torch.int64, "I32": torch.int32}
"""Types of tensors by their names in safetensors."""
_MAX_KEY = 1024
_BASE_NAME = re.compile(rb'("base_model_name_or_path"\s*:\s*)"(?:[^"\\]|\\.){0,4096}"')
"""As long as a name may be, were every character written as an escape."""


class AdapterFiles:
    """One reading of the folder `path`; every method raises `BundleError` naming the file and what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(check(PATH, path, "adapter", BundleError))
        if not os.path.isdir(path):  # false also for what no folder can be named
            raise BundleError(f"adapter {str(path)!r} is no folder; give the folder that `ssft train --output` wrote")
        self._root = self.path.resolve()
        self._hash = hashlib.sha256()
        # What `stamp` said just before of every hashed file, and of every file whose header was read.
        self.stamps: dict[str, tuple[int, ...]] = {}
        self._headers: dict[str, tuple[int, ...]] = {}
        self._unhashed: list[tuple[str, bytes]] = []  # configs that wait for `base_id`
        self.hashes: dict[str, str] = {}
        """Of every hashed file, as its bytes counted."""
        self.base_id = ""
        """ssft's own name of the base, known once `ssft_config.json` is read and before any weights are."""

    def continued(self) -> "AdapterFiles":
        """A second reading that goes on where this one stands; raises `BundleError` if a file was changed since."""
        for name, seen in (self.stamps | self._headers).items():
            if not self.exists(name) or stamp(self.path / name) != seen:
                raise self._changed(name)
        other = copy.copy(self)
        other._hash, other.stamps, other._unhashed = self._hash.copy(), dict(self.stamps), list(self._unhashed)
        other.hashes = dict(self.hashes)
        return other

    def _changed(self, name: str) -> BundleError:
        return BundleError(f"{self.path / name}: changed while it was read; read it when nothing writes to it")

    @property
    def sha256(self) -> str:
        """Hash over names, lengths and bytes of the hashed files read so far, in the order of reading; the base's name
        in a LoRA's config counts as `base_id`, if that is known."""
        self._hash_all()
        return self._hash.hexdigest()

    def exists(self, name: str) -> bool:
        """Whether the folder has an entry `name`, be it a broken link."""
        return os.path.lexists(self.path / name)

    def json(self, name: str, hashed: bool = True) -> dict[str, Any]:
        """The object in a JSON file of at most 16 MiB; a key that stands twice is an error, not the last one."""
        return self._object_of(name, self.read(name, MAX_JSON, hashed))

    def text(self, name: str, max_bytes: int = MAX_JSON) -> str:
        """A text (card, recipe); not hashed."""
        try:
            return self.read(name, max_bytes, hashed=False).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{self.path / name}: not readable as text ({error}); the file is damaged") from error

    def shapes(
        self, name: str, max_bytes: int = MAX_WEIGHTS, dtypes: dict[str, torch.dtype] = FLOATS
    ) -> dict[str, Tensor]:
        """The tensors of a safetensors file on the device "meta": shapes and types of its header, no data is read.

        Of `dtypes` only (`FLOATS` or `INTEGERS`), and no tensor without elements.
        """
        path = self._locate(name, max_bytes)
        with self._safetensors(name):
            self._headers[name] = stamp(path)
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > MAX_JSON:  # the library would allow 100 MB
                    raise ValueError(f"header too large: {size:,} bytes")
                header = file.read(size)
            self._check_values(name, header)
            # The library maps the file and compares the header's offsets with its size; its first pages are read.
            with safe_open(path, framework="pt") as handle:
                entries = {key: handle.get_slice(key) for key in sorted(handle.keys())}
                kinds = {key: (entry.get_dtype(), entry.get_shape()) for key, entry in entries.items()}
        self._object_of(name, header)  # a name may stand twice
        for key, (dtype, shape) in kinds.items():
            # A name stands in messages, which may go to a terminal.
            if not key.isprintable() or len(key) > _MAX_KEY:
                what = f"a tensor's name is {key[:60]!r}..., {len(key)} characters"
                raise BundleError(f"{self.path / name}: {what}, expected printable ones, at most {_MAX_KEY}")
            if dtype not in dtypes:
                kind = "an integer" if dtypes is INTEGERS else "a floating-point"
                what = f"{key} has dtype {dtype}, expected {kind} type ({', '.join(dtypes)})"
                raise BundleError(f"{self.path / name}: {what}")
            if 0 in shape:
                raise BundleError(f"{self.path / name}: {key} has shape {shape} and so no element")
        return {k: torch.empty(shape, dtype=dtypes[dtype], device="meta") for k, (dtype, shape) in kinds.items()}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file that `shapes` has checked; finite, each in memory of its own.

        While it runs, the file's bytes are in memory twice.
        """
        data = self.read(name, self._headers[name][0])
        if self.stamps[name] != self._headers[name]:
            raise self._changed(name)
        with self._safetensors(name):
            # By name: the library's own order differs from process to process.
            tensors = dict(sorted(load(data).items()))
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
            with path.open("rb") as file:
                size = min(os.fstat(file.fileno()).st_size, max_bytes)
                # One byte more: a file that is being written at this moment must not grow beyond what was looked at.
                data = file.read(size + 1)
        except OSError as error:
            raise BundleError(f"{self.path / name}: cannot be read ({error})") from error
        if len(data) > size:
            raise self._changed(name)
        if hashed:
            self._unhashed.append((name, data))
            if not name.endswith(".json"):
                self._hash_all()
        return data

    def _hash_all(self) -> None:
        """Hash what was read. In a LoRA's config the base counts under ssft's own name: another name for others, or
        another place of the same base, makes no other adapter, so that what was measured with it holds."""
        own = json.dumps(self.base_id, ensure_ascii=False).encode()
        for name, data in self._unhashed:
            if self.base_id and name.endswith(".json"):
                data = _BASE_NAME.sub(lambda found: found[1] + own, data, count=1)
            self.hashes[name] = hashlib.sha256(data).hexdigest()
            self._hash.update(f"{name} {len(data)}\n".encode())
            self._hash.update(data)
        self._unhashed = []

    @contextmanager
    def _safetensors(self, name: str) -> Iterator[None]:
        """Turn what a damaged safetensors file raises inside into a `BundleError`."""
        try:
            yield
        except (SafetensorError, OSError, ValueError) as error:
            what = f"no valid safetensors file ({error})"
            raise BundleError(f"{self.path / name}: {what}; it is truncated or of another kind") from error

    def _object_of(self, name: str, data: bytes) -> dict[str, Any]:
        """The JSON object of `data`, which was read from the file `name`."""
        self._check_values(name, data)
        try:
            value = parse_json(data.decode("utf-8"))
        except ValueError as error:
            raise BundleError(f"{self.path / name}: not readable as JSON ({error}); the file is damaged") from error
        if not isinstance(value, dict):
            raise BundleError(f"{self.path / name}: holds a {type(value).__name__}, expected an object")
        return value

    def _check_values(self, name: str, data: bytes) -> None:
        """A bound before anything is parsed: every value of JSON has one of these signs before it."""
        values = sum(map(data.count, (b",", b"[", b"{")))
        if values > MAX_VALUES:
            what = f"some {values:,} values, but no adapter needs more than {MAX_VALUES:,}"
            raise BundleError(f"{self.path / name}: {what}; the file is damaged")

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
            raise BundleError(f"{path}: a link to {target}, outside the adapter folder; put the file itself there")
        if not target.is_file():
            raise BundleError(f"{path}: no regular file")
        if size > max_bytes:
            what = f"{size:,} bytes, but no adapter needs more than {max_bytes:,} here"
            raise BundleError(f"{path}: {what}; the file is damaged")
        return target


def finite(value: Any) -> float | None:
    """A number of a JSON text as a float; None for what is no number, is not finite, or is beyond any float."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no bound
        return None
    return number if math.isfinite(number) else None


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

    The link `<cache>/models--x/snapshots/<commit>/file` points into `<cache>/models--x/blobs/`, whose entries may be
    links again, into `<cache>/blobs/<2 digits>/` that all repositories share (huggingface_hub 2).
    """
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots":
            repository = folder.parent.parent
            shared = "--" in repository.name and target.parent.parent == repository.parent / "blobs"
            return shared or target.parent == repository / "blobs"
    return False
