"""A result as tables and lines of text, and as files: JSON, one HTML page, one PNG."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssft.bench.findings import OURS, count, differing, ties
from ssft.bench.result import BenchResult, CategoryResult, QualityResult, SuiteResult
from ssft.files import check_target, write_bytes, write_json, write_text

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
TRAINING_KEYS = ("data", "rows", "steps", "seconds", "device")
TRAINING_HEADERS = ["method", *TRAINING_KEYS]
BAR_WIDTH = 30
DEEPEST = 8
"""Depths of a histogram with a line of their own."""
SHOWN = 3
"""Places where texts part, per method."""
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
    """All tables of a result: methods, categories where there are several, what was trained, methods left out,
    quality."""
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
    unlike = [[name, entry] for name, quality in qualities.items() for entry in quality.twin_unlike]
    if unlike:
        found.append(("Where the twin's training was another", ["task", "adapter's, twin's"], unlike))
    return found


def _bench_tables(result: BenchResult, prefix: str) -> list[Table]:
    found: list[Table] = [(f"{prefix}speed-up against {result.baseline}", list(HEADERS), table_rows(result))]
    if len(categories(result)) > 1:
        headers = ["category", "prompts", "baseline", *result.methods]
        found.append((f"{prefix}speed-up by category", headers, category_rows(result)))
    if trained := training_rows(result):
        found.append((f"{prefix}what was trained for the methods", list(TRAINING_HEADERS), trained))
    if result.left_out:
        found.append((f"{prefix}left out", ["method", "reason"], [list(item) for item in result.left_out.items()]))
    return found


@dataclass(frozen=True)
class Category:
    """The prompts of one category; cells: method -> what it did on them, None where it did not run on them."""

    name: str
    rows: int
    baseline: str
    cells: dict[str, CategoryResult | None]


def categories(result: BenchResult) -> list[Category]:
    """The categories in the order of their first appearance."""
    names = dict.fromkeys(name for method in result.methods.values() for name in method.categories)
    found = []
    for name in names:
        cells = {key: method.categories.get(name) for key, method in result.methods.items()}
        first = next(cell for cell in cells.values() if cell is not None)
        found.append(Category(name, first.rows, first.baseline, cells))
    return found


def category_rows(result: BenchResult) -> list[list[Any]]:
    """One row per category: its prompts, its baseline, and every method's speed-up with the interval."""
    return [
        [category.name, category.rows, category.baseline, *(_speedup_cell(*item) for item in category.cells.items())]
        for category in categories(result)
    ]


def training_rows(result: BenchResult) -> list[list[Any]]:
    """One row per method for which something was trained, under `TRAINING_HEADERS`."""
    return [
        [name, *(_fact(method.training.get(key)) for key in TRAINING_KEYS)]
        for name, method in result.methods.items()
        if method.training
    ]


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
    where = machine(result.precision, result.device, result.threads)
    if isinstance(result, SuiteResult):
        return f"{', '.join(result.tasks) or 'no task'}: {where}{', interrupted' if result.interrupted else ''}"
    rounds = f"{count(result.rounds, 'round')}{' before an interruption' if result.interrupted else ''}"
    return (
        f"{result.adapter}: {count(result.rows, 'prompt')}, at most {result.max_new_tokens} tokens, batch "
        f"{result.batch_size}, {rounds}, {where}"
    )


def machine(precision: str, device: str, threads: int) -> str:
    """`float32 on cpu: Intel Xeon, 2 threads`; the threads once, also where the device's name does not tell them."""
    return f"{precision} on {bare_device(device)}, {count(threads, 'thread')}"


def bare_device(device: str) -> str:
    """The device without the threads that a CPU's name ends with."""
    return re.sub(r", \d+ threads?$", "", device)


def remarks(result: BenchResult) -> list[str]:
    """Lines under the table: the baseline, where outputs differ, how deep drafts were accepted."""
    plain = [name for name, method in result.methods.items() if method.kind == "plain"]
    lines = [f"speed-up is against {result.baseline}, the fastest plain method of {', '.join(plain)}"]
    tied = ties(result)
    for name, rows in differing(result).items():
        hint = "; `ssft verify` shows where and by what margin" if name == OURS else ""
        kind = f", at ties that rounding in {result.precision} decides" if name in tied else ""
        lines.append(f"{name}: {rows} of {result.rows} outputs differ from plain's{kind}{hint}")
    for name, method in result.methods.items():
        if len(method.differences) > SHOWN:
            lines.append(f"{name}: the first {SHOWN} of {len(method.differences)} that part:")
        for difference in method.differences[:SHOWN]:
            margin = "" if difference.margin is None else f", where plain leads by {difference.margin:.3f} logits"
            lines.append(f"{name}: prompt {difference.row} parts at token {difference.position}{margin}")
        if sum(method.accepted):
            lines += [f"{name}: passes by depth of the accepted draft", *histogram_lines(method.accepted)]
    return lines


def histogram_lines(counts: Sequence[int]) -> list[str]:
    """A text bar per index, `  2  41 %  ############`, up to the last that is not 0; those beyond `DEEPEST` share one.

    `counts`: at least one is not 0.
    """
    last = max(index for index, count in enumerate(counts) if count)
    shown = {f"{index}": count for index, count in enumerate(counts[: min(last, DEEPEST) + 1])}
    if last > DEEPEST:
        shown[f"{DEEPEST + 1}+"] = sum(counts[DEEPEST + 1 :])
    total, most = sum(counts), max(shown.values())
    return [
        f"  {index:>2} {count / total:>5.0%}  {'#' * max(round(BAR_WIDTH * count / most), 1 if count else 0)}".rstrip()
        for index, count in shown.items()
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


def _speedup_cell(name: str, found: CategoryResult | None) -> str | None:
    """`1.84 x (1.62 - 2.05)`; the baseline has no interval, and a dash stands for one that is missing."""
    if found is None or name == found.baseline:
        return None if found is None else ratio(found.speedup)
    return f"{ratio(found.speedup)} ({interval(found.speedup_interval) or '-'})"


def _fact(value: Any) -> Any:
    """A cell of what a method's provenance tells; whole numbers of seconds."""
    return round(value) if isinstance(value, float) else value


def write_report(result: SuiteResult, folder: Path) -> list[Path]:
    """Write `REPORT_FILES` into a folder, which is made if need be: each file whole or not at all.

    The JSON comes first: it alone cannot be made again from the others. With no finished task there is no picture, and
    an older one, which would not belong to the new JSON, is removed.
    """
    # Plotting takes a second to import, which the commands that write plain JSON should not pay.
    from ssft.bench.html import html_report
    from ssft.bench.plots import overview_figure, to_png

    data, page, picture = (Path(folder) / name for name in REPORT_FILES)
    write_json(data, result)
    write_text(page, html_report(result))
    written = [data, page]
    if not any(task.bench.methods for task in result.tasks.values()):
        picture.unlink(missing_ok=True)
        return written
    check_target(picture)
    write_bytes(picture, to_png(overview_figure, result))
    return [*written, picture]
