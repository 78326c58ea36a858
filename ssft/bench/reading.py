"""Reading a result that `ssft bench --output` or `ssft bench tasks` wrote, checked key by key and type by type."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ssft.bench.result import FORMAT, BenchResult, SuiteResult
from ssft.errors import ConfigError
from ssft.files import to_json

MAX_BYTES = 256 * 2**20
"""A result of a million output tokens has some 10 MB."""


def read_result(path: Path) -> BenchResult | SuiteResult:
    """The result in a JSON file.

    Raises:
        ConfigError: the file is missing, cut off, no result, of another format, lacks a key, has one too many (a newer
            version wrote it), or a value of another type. The message names the file and the place, as
            `tasks.sql.bench.rows`.
    """
    text, value = read_json(path)
    if "tasks" in value:
        kind: Any = SuiteResult
    elif "adapter" in value and isinstance(value.get("methods"), dict):
        kind = BenchResult
    else:
        raise ConfigError(
            f"{path}: no result of a comparison; give a file that `ssft bench --output` or `ssft bench tasks` wrote"
        )
    if value.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: format {value.get('format')!r}, this version of ssft reads format {FORMAT}; read it with the "
            "version of ssft that wrote it, or measure again"
        )
    try:
        result = TypeAdapter(kind).validate_json(text, strict=True)
        fault = _unknown(value, to_json(result))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        fault = f"`{place}` is missing" if first["type"] == "missing" else f"`{place}`: {first['msg']}"
    if fault:
        raise ConfigError(f"{path}: {fault}; another version of ssft wrote it, or it was changed by hand")
    return result


def read_json(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a result's file and the JSON object in it, empty for another value; `ConfigError` for no JSON."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes; no result has more than {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a result's JSON file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no whole JSON ({error}); the file is cut off or of another kind") from error
    return text, value if isinstance(value, dict) else {}


def _unknown(given: Any, read: Any, where: str = "") -> str:
    """Names the first key of the file that the result has no field for; empty if there is none."""
    for key in given if isinstance(given, dict) else range(len(given)) if isinstance(given, list) else ():
        place = f"{where}.{key}" if where else f"{key}"
        if isinstance(given, dict) and key not in read:
            return f"`{place}` is unknown"
        if fault := _unknown(given[key], read[key], place):
            return fault
    return ""
