"""Files and folders that appear whole or not at all, JSON texts, and the identity of a data file."""

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from ssft.errors import ConfigError

_CHUNK = 2**20


def to_json(value: Any) -> Any:
    """A value of dataclasses, paths, tuples, sets, arrays and tensors as what JSON knows; NaN and infinities become
    null, keys strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return to_json(value.tolist())
    return value


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
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)  # mkstemp makes it the owner's alone
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; raises `ConfigError` where no file can be."""
    data = text.encode("utf-8")
    check_target(path)
    write_bytes(path, data)


def write_json(path: Path, value: Any) -> None:
    """Write what `json_text` makes of a value, whole or not at all."""
    write_text(path, json_text(value) + "\n")


def replace_folder(folder: Path, target: Path, replaced: Path) -> None:
    """Rename `folder` to `target`; what is there goes to `replaced`, and comes back if anything stops this.

    All three lie in one file system, and nothing is at `replaced`. Whether what stands at `target` may go is the
    caller's to check. Raises `OSError`.
    """
    if target.exists():
        os.replace(target, replaced)
    try:
        os.replace(folder, target)
    except BaseException:
        if replaced.exists():
            os.replace(replaced, target)
        raise


def file_identity(path: str | os.PathLike[str]) -> dict[str, str]:
    """{"name", "sha256"}: a file's name without its folder, and the hash of its bytes. Raises `OSError`.

    The file is read in chunks, so that one larger than the memory can be named too.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return {"name": Path(path).name, "sha256": digest.hexdigest()}
