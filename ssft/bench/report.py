"""A result as rows of a table, as lines of text and as a JSON file."""

import dataclasses
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from ssft.bench.measure import BenchResult
from ssft.bench.methods import method_module, method_names
from ssft.errors import ConfigError

HEADERS = [
    "method",
    "speed-up",
    "95 % interval",
    "tokens/s",
    "tokens/call",
    "tokens",
    "calls",
    "same as plain",
    "extra",
]
BAR_WIDTH = 30


def table_rows(result: BenchResult) -> list[list[Any]]:
    """One row per method, under `HEADERS`."""
    return [
        [
            name,
            f"{method.speedup:.2f} x",
            "{:.2f} - {:.2f}".format(*method.speedup_interval),
            f"{method.tokens_per_second:,.1f}",
            f"{method.tokens_per_call:.2f}",
            method.tokens,
            method.calls,
            f"{method.identical}/{result.rows}",
            method.extra_parameters,
        ]
        for name, method in result.methods.items()
    ]


def heading(result: BenchResult) -> str:
    """One line: what was measured, on what."""
    return (
        f"{result.adapter}: {result.rows} prompts, at most {result.max_new_tokens} tokens, batch {result.batch_size}, "
        f"{result.rounds} rounds, {result.precision} on {result.device}"
    )


def remarks(result: BenchResult) -> list[str]:
    """Lines under the table: where outputs differ, and how deep drafts were accepted."""
    lines = []
    for name, method in result.methods.items():
        lossless = name not in method_names() or method_module(name).LOSSLESS
        if lossless and method.identical < result.rows:
            lines.append(
                f"{name}: {result.rows - method.identical} of {result.rows} outputs differ from plain's; "
                "`ssft verify` shows where and by what margin"
            )
        if sum(method.accepted):
            lines += [f"{name}: passes by depth of the accepted draft", *histogram_lines(method.accepted)]
    return lines


def histogram_lines(counts: list[int]) -> list[str]:
    """A text bar per index: `  2  41 %  ############`."""
    total, most = sum(counts), max(counts)
    return [
        f"  {index:>2} {count / total:>5.0%}  {'#' * max(round(BAR_WIDTH * count / most), 1 if count else 0)}".rstrip()
        for index, count in enumerate(counts)
    ]


def to_json(value: Any) -> Any:
    """Dataclasses, paths and tuples as what JSON knows; NaN and infinities become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def check_output(path: Path) -> None:
    """Raise `ConfigError` if a file at `path` cannot be written, before hours are spent on what goes into it."""
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder; give a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {path}: its folder cannot be made ({error.strerror or error})") from error
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--output {path}: its folder is not writable; choose another place")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: under another name first, then renamed."""
    check_output(path)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)  # mkstemp makes it the owner's alone
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def write_json(path: Path, result: Any) -> None:
    """Write a result object as JSON, atomically."""
    write_text(path, json.dumps(to_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
