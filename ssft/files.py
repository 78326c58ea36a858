"""Files and folders that appear whole or not at all, JSON texts, and hashes."""

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from ssft.errors import ConfigError


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises `ValueError` (a syntax error is `json.JSONDecodeError`, with the place) also for what Python's own reader
    lets pass or stumbles over: a key that stands twice in one object, half a surrogate pair, a number of thousands of
    digits, brackets in thousands of brackets.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_int)
    except RecursionError as error:
        raise ValueError("brackets stand too deep in brackets") from error
    if re.search(r"\\u[dD][89a-fA-F]", text):  # an escape that is half of a pair at best
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise ValueError(f"{half} is half a surrogate pair, which is no character") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {key[:60]!r} stands twice")
    return value


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:  # Python's bound against long conversions
        raise ValueError(f"a number of {len(digits):,} digits; no program could read it") from error


def to_json(value: Any) -> Any:
    """A value of dataclasses, paths, tuples, sets, arrays and tensors as what JSON knows; NaN and infinities become
    null, keys strings."""
    # Arrays and tensors, of any library, say their numbers by `tolist`.
    return to_jsonable_python(value, inf_nan_mode="null", fallback=lambda array: array.tolist())


def json_text(value: Any) -> str:
    """`to_json` of a value as text, indented, without a line break at its end."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False)


def check_target(path: Path, option: str = "--output") -> None:
    """Raise `ConfigError` if a file at `path` cannot be written, before hours are spent on what goes into it.

    The folder is made where it is missing; `option` is the one that the message names.
    """
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder; give a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: its folder cannot be made ({error.strerror or error})") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: its folder is not writable; choose another place")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with the permissions of a new file; raises `OSError`."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with scratch.open("xb") as file:  # a new file of mode 0666, to which the system applies the umask
            file.write(data)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; raises `ConfigError` where no file can be."""
    data = text.encode("utf-8")
    check_target(path)
    write_bytes(path, data)


def write_json(path: Path, value: Any) -> None:
    """Write what `json_text` makes of a value, whole or not at all."""
    write_text(path, json_text(value) + "\n")


def write_sorted_json(path: Path, value: Any) -> None:
    """Write a JSON file, keys in order, into a folder that is not in its place yet (`whole_folder`)."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def whole_folder(target: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A fresh folder to write into; it takes the place of `target` once the block ends without error.

    `check(target)` raises if what stands at `target` may not go: before the block, and again before it is replaced. A
    target that is a link stays one. The files get the permissions of new files, whatever wrote them. While the block
    runs, the folder lies beside the target, in `.NAME.partial-*`. Raises `OSError`.
    """
    check(target)
    real = target.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=real.parent, prefix=f".{real.name}.partial-") as scratch:
        folder = Path(scratch) / real.name
        folder.mkdir()
        yield folder
        # safetensors and some others write files that only their owner may read; the umask is in a new folder's mode.
        mode = folder.stat().st_mode & 0o777
        for path in folder.rglob("*"):
            path.chmod(mode if path.is_dir() else mode & 0o666)
        check(target)
        replaced = Path(scratch) / ".replaced"
        if real.exists():
            os.replace(real, replaced)
        try:
            os.replace(folder, real)
        except BaseException:  # what was there comes back
            if replaced.exists():
                os.replace(replaced, real)
            raise


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash of a file's bytes, read in chunks, so that it may be larger than the memory. Raises `OSError`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def file_identity(path: str | os.PathLike[str]) -> dict[str, str]:
    """{"name", "sha256"}: a file's name without its folder, and the hash of its bytes. Raises `OSError`."""
    return {"name": Path(path).name, "sha256": file_sha256(path)}


def json_sha256(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
