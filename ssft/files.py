"""Files and folders that appear whole or not at all, JSON texts, and hashes."""

import hashlib
import json
import os
import re
import secrets
import sys
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
    try:
        if path.is_dir():
            raise ConfigError(f"{option} {path} is a folder; give a file")
        if _takes_what_comes(path):
            if not os.access(path, os.W_OK):
                raise ConfigError(f"{option} {path} is a device or a pipe that is not writable; choose another place")
            return
        folder = path.resolve().parent
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} {path}: its folder cannot be made ({reason})") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {path}: its folder is not writable; choose another place")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, with the permissions of a new file; raises `OSError`.

    It takes the place of whatever stands at `path`, of a link too: a stranger's folder may hold one that leads out.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with scratch.open("xb") as file:  # a new file of mode 0666, to which the system applies the umask
            file.write(data)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_member(path: Path, data: bytes) -> None:
    """`write_bytes` into an adapter's folder; raises `ConfigError` where no file can be written."""
    try:
        write_bytes(path, data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); check the folder's rights") from error


def write_output(path: Path, data: bytes, option: str = "--output") -> None:
    """Write where the user said by `option`, whole or not at all; raises `ConfigError` where that cannot be.

    A link stays one, and the file that it points to is replaced. A device or a pipe cannot be replaced: the bytes go
    into it, and those that it took before an error stay there.
    """
    check_target(path, option)
    try:
        if not _takes_what_comes(path):
            write_bytes(path.resolve(), data)
            return
        own = _descriptor(path)
        if own is not None:
            sys.stdout.flush()  # what was printed before comes before
        with open(path if own is None else os.dup(own), "wb") as node:
            node.write(data)
    except BrokenPipeError:
        raise  # whoever was reading has seen enough
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be written ({error.strerror or error})") from error


def _takes_what_comes(path: Path) -> bool:
    """Whether bytes go into what is at `path`, a device, a pipe or this process's own output, and do not replace it."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file())


def _descriptor(path: Path) -> int | None:
    """The number of this process's own descriptor that `path` names (/dev/stdout, /dev/fd/1); None: it names none.

    A shell may have put a file there, and has its own place in it: it is neither replaced nor opened anew.
    """
    own = Path("/proc/self/fd").resolve() if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    for _ in range(8):  # /dev/stdout -> /proc/self/fd/1
        if path.name.isdecimal() and path.parent.resolve() == own:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def write_text(path: Path, text: str) -> None:
    """`write_output` of a text as UTF-8."""
    write_output(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_output` of what `json_text` makes of a value."""
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
