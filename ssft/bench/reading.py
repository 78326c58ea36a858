"""Reading a result that `ssft bench --output` or `ssft bench tasks` wrote, checked key by key and type by type."""

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

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
        # A dataclass alone takes no settings; within a union it does, and all dataclasses in it.
        reader: Any = TypeAdapter(kind | None, config=ConfigDict(strict=True, extra="forbid"))
        return reader.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        faults = {"missing": " is missing", "unexpected_keyword_argument": " is unknown"}
        place, fault = ".".join(map(str, first["loc"])), faults.get(first["type"], f": {first['msg']}")
        raise ConfigError(
            f"{path}: `{place}`{fault}; another version of ssft wrote it, or it was changed by hand"
        ) from error


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
