"""Reading what `ssft verify`, `bench`, `bench tasks` and `eval` wrote, checked key by key and type by type."""

from pathlib import Path
from typing import Any

from ssft.errors import ConfigError
from ssft.files import parse_json
from ssft.results.schema import FORMAT, BenchResult, EvalResult, SuiteResult, TaskResult, VerifyResult
from ssft.schema import read

MAX_BYTES = 256 * 2**20
"""A result of a million output tokens has some 10 MB."""

Run = BenchResult | VerifyResult | EvalResult
Kept = Run | TaskResult
"""What one command measured with one adapter."""


def read_result(path: Path) -> Run | SuiteResult:
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
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no whole JSON ({error}); the file is cut off or of another kind") from error
    if (kind := _kind(value)) not in (BenchResult, SuiteResult, VerifyResult, EvalResult):
        raise ConfigError(f"{path}: no result that `ssft bench`, `bench tasks`, `verify` or `eval` wrote")
    if (found := value.get("format", FORMAT)) != FORMAT:
        raise ConfigError(
            f"{path}: format {found!r}, this version of ssft reads format {FORMAT}; read it with the version of ssft "
            "that wrote it, or measure again"
        )
    try:
        result: Run | SuiteResult = read(kind, value, "")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; it was changed by hand or written by another version of ssft") from error
    return result


def read_comparison(path: Path) -> BenchResult | SuiteResult:
    """The result of `ssft bench` or `ssft bench tasks`; raises `ConfigError` for any other, too."""
    result = read_result(path)
    if not isinstance(result, BenchResult | SuiteResult):
        raise ConfigError(f"{path}: no comparison of methods; give a file that `ssft bench` or `bench tasks` wrote")
    return result


def read_kept(value: Any, place: str) -> Kept:
    """A result among others, which stands at `place` of its file; raises `ValueError` that names it."""
    if (kind := _kind(value)) in (None, SuiteResult):
        raise ValueError(f"{place} is no result of one adapter")
    result: Kept = read(kind, value, place)
    return result


def run_of(result: Kept) -> Run:
    """The run of a result, which says whose it is and how it was made."""
    return result.bench if isinstance(result, TaskResult) else result


def _kind(value: Any) -> Any:
    """The class whose fields the keys of a JSON value are, or None."""
    if not isinstance(value, dict):
        return None
    if "kind" in value:
        return {"verify": VerifyResult, "eval": EvalResult}.get(str(value["kind"]))
    if "bench" in value:
        return TaskResult
    if "tasks" in value:
        return SuiteResult
    return BenchResult if "adapter" in value and isinstance(value.get("methods"), dict) else None
