"""Reading what `ssft verify`, `bench`, `bench tasks` and `eval` wrote, checked key by key and type by type."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ssft.bench.result import FORMAT, BenchResult, SuiteResult
from ssft.card.results import Count, Number, Text
from ssft.errors import ConfigError
from ssft.files import parse_json
from ssft.schema import read

MAX_BYTES = 256 * 2**20
"""A result of a million output tokens has some 10 MB."""


@dataclass(kw_only=True)
class _Facts:
    """What a card needs of the JSON that `ssft verify` and `ssft eval` write."""

    command: Text
    adapter: Text | None
    adapter_sha256: Text | None
    data: dict[str, Text] | None
    device: Text
    precision: Text
    tree: dict[str, Any]
    rows: Count
    tokens: Count
    calls: Count
    batch_size: Count
    max_new_tokens: Count


@dataclass(kw_only=True)
class VerifyFacts(_Facts):
    """`ssft verify`: how many of the rows have the text of `against`."""

    against: Text
    identical: Count


@dataclass(kw_only=True)
class EvalFacts(_Facts):
    """`ssft eval`. method, trained_on: of the adapter's training; scores: metric -> [rows]."""

    method: Text = ""
    trained_on: dict[str, Any] = field(default_factory=dict)
    streaming: bool
    metrics: dict[Text, Number]
    intervals: dict[Text, tuple[Number, Number]]
    scores: dict[Text, list[Number]] = field(default_factory=dict)


Result = BenchResult | SuiteResult | VerifyFacts | EvalFacts


def read_result(path: Path) -> Result:
    """What a JSON file holds.

    Raises:
        ConfigError: the file is missing, cut off, no result, of another format, lacks a key, has one too many (a newer
            version wrote it), or a value of another type. The message names the file and the place.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{path}: {size:,} bytes; no result has more than {MAX_BYTES:,}")
        value = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a result's JSON file") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no whole JSON ({error}); the file is cut off or of another kind") from error
    value = value if isinstance(value, dict) else {}
    kind: Any = {"verify": VerifyFacts, "eval": EvalFacts}.get(str(value.get("kind")))
    if kind is not None:
        # These commands tell more than a card shows.
        value = {entry.name: value[entry.name] for entry in fields(kind) if entry.name in value}
    elif "tasks" in value or ("adapter" in value and isinstance(value.get("methods"), dict)):
        kind = SuiteResult if "tasks" in value else BenchResult
        if value.get("format") != FORMAT:
            raise ConfigError(
                f"{path}: format {value.get('format')!r}, this version of ssft reads format {FORMAT}; read it with the "
                "version of ssft that wrote it, or measure again"
            )
    else:
        raise ConfigError(f"{path}: no result that `ssft bench`, `bench tasks`, `verify` or `eval` wrote")
    try:
        found: Result = read(kind, value, "")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; it was changed by hand or written by another version of ssft") from error
    return found


def read_comparison(path: Path) -> BenchResult | SuiteResult:
    """The result of `ssft bench` or `ssft bench tasks`; raises `ConfigError` for any other, too."""
    result = read_result(path)
    if not isinstance(result, BenchResult | SuiteResult):
        raise ConfigError(f"{path}: no comparison of methods; give a file that `ssft bench` or `bench tasks` wrote")
    return result
