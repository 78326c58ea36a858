"""A result as tables and lines of text, and as files: JSON, one HTML page, one PNG."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssft._write import check_target as check_output
from ssft._write import write_bytes
from ssft.bench.findings import count, differing
from ssft.bench.reading import read_result
from ssft.bench.result import BenchResult, CategoryResult, MethodResult, QualityResult, SuiteResult

__all__ = [
    "HEADERS",
    "check_output",
    "heading",
    "human_bytes",
    "read_result",
    "remarks",
    "table_rows",
    "tables",
    "to_json",
    "write_json",
    "write_report",
    "write_text",
]

HEADERS = [
    "method",
    "speed-up",
    "95 % interval",
    "tokens/s",
    "tokens/call",
    "prompt, s",
    "decode, s",
    "same as plain",
    "extra params",
    "on disk",
    "peak memory",
]
BAR_WIDTH = 30
REPORT_FILES = ("report.json", "report.html", "report.png")

Table = tuple[str, list[str], list[list[Any]]]
"""Title, headers, rows."""


def table_rows(result: BenchResult) -> list[list[Any]]:
    """One row per method, under `HEADERS`."""
    return [
        [
            name,
            ratio(method.speedup),
            interval(method.speedup_interval),
            f"{method.tokens_per_second:,.1f}",
            f"{method.tokens_per_call:.2f}",
            f"{method.prompt_seconds:,.2f}",
            f"{method.decode_seconds:,.2f}",
            None if method.identical is None else f"{method.identical}/{result.rows}",
            method.extra_parameters,
            human_bytes(method.extra_bytes),
            human_bytes(method.peak_bytes),
        ]
        for name, method in result.methods.items()
    ]


def tables(result: BenchResult | SuiteResult) -> list[Table]:
    """All tables of a result: methods, categories where there are several, methods left out, quality."""
    if isinstance(result, BenchResult):
        return _bench_tables(result, "")
    found: list[Table] = []
    for name, task in result.tasks.items():
        found += _bench_tables(task.bench, f"{name}: ")
    qualities = {name: task.quality for name, task in result.tasks.items() if task.quality is not None}
    if qualities:
        headers = [
            "task",
            "metric",
            "rows",
            "adapter",
            "95 % interval",
            "twin",
            "95 % interval",
            "difference",
            "95 % interval",
        ]
        rows = [[name, *row] for name, quality in qualities.items() for row in quality_rows(quality)]
        found.append(("Quality: the adapter, and its twin trained without streams", headers, rows))
    return found


def _bench_tables(result: BenchResult, prefix: str) -> list[Table]:
    found: list[Table] = [(f"{prefix}speed-up against {result.baseline}", list(HEADERS), table_rows(result))]
    names = categories(result)
    if len(names) > 1:
        headers = ["category", "prompts", *result.methods]
        found.append((f"{prefix}speed-up by category", headers, category_rows(result)))
    if result.left_out:
        found.append((f"{prefix}left out", ["method", "reason"], [list(item) for item in result.left_out.items()]))
    return found


def categories(result: BenchResult) -> list[str]:
    """Names of the categories, in the order of their first appearance."""
    return list(dict.fromkeys(name for method in result.methods.values() for name in method.categories))


def category_rows(result: BenchResult) -> list[list[Any]]:
    """One row per category: its prompts, and every method's speed-up with the interval."""
    rows: list[list[Any]] = []
    for name in categories(result):
        found = [method.categories.get(name) for method in result.methods.values()]
        prompts = next(category.rows for category in found if category is not None)
        rows.append([name, prompts, *(None if category is None else _speedup_cell(category) for category in found)])
    return rows


def quality_rows(quality: QualityResult) -> list[list[Any]]:
    """One row per metric: rows, adapter, twin, and their paired difference, each with its interval."""
    return [
        [
            metric,
            quality.rows,
            f"{value:.1f}",
            interval(quality.adapter_intervals.get(metric), 1),
            number(quality.twin.get(metric), "{:.1f}"),
            interval(quality.twin_intervals.get(metric), 1),
            number(quality.differences.get(metric), "{:+.1f}"),
            interval(quality.difference_intervals.get(metric), 1, "+"),
        ]
        for metric, value in quality.adapter.items()
    ]


def heading(result: BenchResult | SuiteResult) -> str:
    """One line: what was measured, on what."""
    if isinstance(result, SuiteResult):
        return (
            f"{', '.join(result.tasks) or 'no task'}: {result.precision} on {result.device}, "
            f"{count(result.threads, 'thread')}{', interrupted' if result.interrupted else ''}"
        )
    return (
        f"{result.adapter}: {result.rows} prompts, at most {result.max_new_tokens} tokens, batch {result.batch_size}, "
        f"{result.rounds} rounds, {result.precision} on {result.device}"
    )


def remarks(result: BenchResult) -> list[str]:
    """Lines under the table: the baseline, where outputs differ, how deep drafts were accepted."""
    plain = [name for name, method in result.methods.items() if method.kind == "plain"]
    lines = [f"speed-up is against {result.baseline}, the fastest plain method of {', '.join(plain)}"]
    for name, rows in differing(result).items():
        lines.append(
            f"{name}: {rows} of {result.rows} outputs differ from plain's; `ssft verify` shows where and by what margin"
        )
    for name, method in result.methods.items():
        for difference in method.differences[:3]:
            margin = "" if difference.margin is None else f", where plain leads by {difference.margin:.3f} logits"
            lines.append(f"{name}: prompt {difference.row} parts at token {difference.position}{margin}")
        if sum(method.accepted):
            lines += [f"{name}: passes by depth of the accepted draft", *histogram_lines(method.accepted)]
    return lines


def histogram_lines(counts: Sequence[int]) -> list[str]:
    """A text bar per index: `  2  41 %  ############`."""
    total, most = sum(counts), max(counts)
    return [
        f"  {index:>2} {count / total:>5.0%}  {'#' * max(round(BAR_WIDTH * count / most), 1 if count else 0)}".rstrip()
        for index, count in enumerate(counts)
    ]


def number(value: float | None, form: str) -> str | None:
    """A number in a `str.format` form; None stays None, which tables show as a dash."""
    return None if value is None else form.format(value)


def ratio(value: float | None) -> str | None:
    """`1.84 x`."""
    return number(value, "{:.2f} x")


def interval(span: tuple[float, float] | None, digits: int = 2, sign: str = "") -> str | None:
    """`1.62 - 2.05`, or with signs `-2.5 to +1.5`."""
    if span is None:
        return None
    between = " to " if sign else " - "
    return between.join(f"{value:{sign}.{digits}f}" for value in span)


def human_bytes(size: int | None) -> str | None:
    """Bytes to three digits in powers of 1,000: `0`, `9.42 kB`, `460 MB`."""
    if size is None:
        return None
    if size < 1000:
        return f"{size} B" if size else "0"
    units = ("kB", "MB", "GB", "TB")
    # 999,600 rounds to 1,000 kB, which is 1.00 MB.
    power = next((power for power in range(1, len(units)) if size / 1000**power < 999.5), len(units))
    value, unit = size / 1000**power, units[power - 1]
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def _speedup_cell(found: CategoryResult | MethodResult) -> str | None:
    if found.speedup is None or found.speedup_interval is None:
        return None
    return f"{ratio(found.speedup)} ({interval(found.speedup_interval)})"


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


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; raises `ConfigError` where no file can be."""
    data = text.encode("utf-8")
    check_output(path)
    write_bytes(path, data)


def write_json(path: Path, result: Any) -> None:
    """Write a result object as JSON, atomically."""
    write_text(path, json.dumps(to_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_report(result: SuiteResult, folder: Path) -> list[Path]:
    """Write `REPORT_FILES` into a folder, which is made if need be: each file whole or not at all.

    The JSON comes first: it alone cannot be made again from the others. With no finished task there is no picture.
    """
    # Plotting takes a second to import, which the commands that write plain JSON should not pay.
    from ssft.bench.html import html_report
    from ssft.bench.plots import overview_figure, to_png

    data, page, picture = (Path(folder) / name for name in REPORT_FILES)
    write_json(data, result)
    write_text(page, html_report(result))
    written = [data, page]
    if any(task.bench.methods for task in result.tasks.values()):
        check_output(picture)
        write_bytes(picture, to_png(overview_figure, result))
        written.append(picture)
    return written
