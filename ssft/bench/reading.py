"""Reading a result that `ssft bench --output` or `ssft bench tasks` wrote, checked key by key and type by type."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from ssft.bench.result import FORMAT, BenchResult, SuiteResult
from ssft.errors import ConfigError

MAX_BYTES = 256 * 2**20
"""A result of a million output tokens has some 10 MB."""


def read_result(path: Path) -> BenchResult | SuiteResult:
    """The result in a JSON file.

    Raises:
        ConfigError: the file is missing, cut off, no result, of another format, lacks a key, has one too many (a newer
            version wrote it), or a value of another type. The message names the file and the place, as
            `tasks.sql.bench.rows`.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; no result has more than {MAX_BYTES:,}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a result's JSON file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no whole JSON ({error}); the file is cut off or of another kind") from error
    kind = _kind(value)
    if kind is None:
        raise ConfigError(
            f"{path}: no result of a comparison; give a file that `ssft bench --output` or `ssft bench tasks` wrote"
        )
    if value.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: format {value.get('format')!r}, this version of ssft reads format {FORMAT}; read it with the "
            "version of ssft that wrote it, or measure again"
        )
    try:
        return _build(kind, value, "")
    except _MisfitError as error:
        raise ConfigError(f"{path}: {error}; another version of ssft wrote it, or it was changed by hand") from error


class _MisfitError(ValueError):
    """A place of the JSON that does not fit; the message names it."""


def _kind(value: Any) -> Any:
    """The result's class by its tell-tale keys; None for anything else."""
    if not isinstance(value, dict):
        return None
    if "tasks" in value:
        return SuiteResult
    return BenchResult if {"adapter", "methods"} <= set(value) and isinstance(value["methods"], dict) else None


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` of the JSON as an object of the annotated type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, _expect(dict, value, where), where)
    if origin in (types.UnionType, typing.Union):  # only `X | None` occurs
        return None if value is None else _build(arguments[0], value, where)
    if origin is dict:
        entries = _expect(dict, value, where)
        return {key: _build(arguments[1], item, _join(where, key)) for key, item in entries.items()}
    if origin is list:
        entries = _expect(list, value, where)
        return [_build(arguments[0], item, _join(where, index)) for index, item in enumerate(entries)]
    if origin is tuple:
        entries = _expect(list, value, where)
        if len(entries) != len(arguments):
            raise _MisfitError(f"`{where}` has {len(entries)} values, expected {len(arguments)}")
        pairs = zip(arguments, entries, strict=True)
        return tuple(_build(part, item, _join(where, index)) for index, (part, item) in enumerate(pairs))
    # JSON writes 1.0 as 1.0, but other writers drop the fraction.
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, where)


def _dataclass(kind: Any, entries: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(entries) - set(hints)):
        raise _MisfitError(f"key `{_join(where, unknown[0])}` is unknown")
    fields = dataclasses.fields(kind)
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in entries]:
        raise _MisfitError(f"key `{_join(where, missing[0])}` is missing")
    return kind(**{key: _build(hints[key], value, _join(where, key)) for key, value in entries.items()})


def _expect(kind: type, value: Any, where: str) -> Any:
    # By type, not isinstance(): True is no count.
    if type(value) is not kind:
        raise _MisfitError(f"`{where}` is {type(value).__name__}, expected {kind.__name__}")
    return value


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
