"""A comparison as tables, which the terminal and the page show alike."""

import re
from typing import Any

from ssft.bench.report.findings import broken, count, fastest
from ssft.bench.result import BenchResult, CategoryResult, MethodResult, SuiteResult
from ssft.tables import BYTES, Column, Estimate, Table

TRAINING = ("data", "rows", "steps", "seconds", "device")
DEEPEST = 8
"""Depths of a draft with a column of their own."""
SHOWN = 3
"""Places where texts part, per method."""
_FIELDS = {
    "decode_speedup": Column("decoding", ".2f", "×"),
    "tokens_per_second": Column("tokens/s", ",.1f"),
    "tokens_per_call": Column("tokens/call", ".2f"),
    "calls": Column("calls"),
    "prompt_seconds": Column("prompts, s", ",.2f"),
    "decode_seconds": Column("decoding, s", ",.2f"),
    "extra_parameters": Column("extra parameters"),
    "extra_bytes": Column("on disk", BYTES),
    "peak_bytes": Column("peak memory", BYTES),
}
"""Fields of a `MethodResult` that are shown as they are."""


def heading(result: BenchResult | SuiteResult) -> str:
    """One line: what was measured, on what."""
    where = machine(result)
    if isinstance(result, SuiteResult):
        return f"{', '.join(result.tasks) or 'no task'}: {where}{', interrupted' if result.interrupted else ''}"
    return f"{result.adapter}: {conditions(result)}, {where}"


def machine(result: BenchResult | SuiteResult) -> str:
    """`float32 on cpu: Intel Xeon, 2 threads`; the threads once, also where the device's name tells others."""
    device = re.sub(r", \d+ threads?$", "", result.device)
    return f"{result.precision} on {device}, {count(result.threads, 'thread')}"


def conditions(result: BenchResult) -> str:
    """`10 prompts, at most 96 tokens, batch 1, 3 rounds`."""
    return (
        f"{count(result.rows, 'prompt')}, at most {result.max_new_tokens} tokens, batch {result.batch_size}, "
        f"{count(result.rounds, 'round')}{' before an interruption' if result.interrupted else ''}"
    )


def tables(result: BenchResult | SuiteResult) -> list[Table]:
    """The tables that a result has something for: methods, where texts part, depths of drafts, categories, training,
    methods left out; of a suite those of each task, then quality."""
    if isinstance(result, BenchResult):
        return _bench(result, "")
    found = [table for name, task in result.tasks.items() for table in _bench(task.bench, f"{name}: ")]
    return found + _quality(result)


def _bench(result: BenchResult, prefix: str) -> list[Table]:
    found = [_methods(result), _differences(result), _depths(result), _categories(result), _training(result)]
    found.append(Table("left out", ["method", "reason"], [list(item) for item in result.left_out.items()]))
    for table in found:
        table.title = f"{prefix}{table.title}"
    return [table for table in found if table.rows]


def _methods(result: BenchResult) -> Table:
    rows = [
        [
            name,
            _speedup(method, name == result.baseline),
            *(getattr(method, key) for key in _FIELDS),
            None if method.identical is None else f"{method.identical}/{result.rows}",
        ]
        for name, method in result.methods.items()
    ]
    columns = ["method", Column("speed-up (95 % interval)", ".2f", "×"), *_FIELDS.values()]
    columns.append(Column("same text", right=True))
    marked = (("best", [fastest(result)]), ("base", [result.baseline]), ("wrong", broken(result)))
    marks = {
        row: " ".join(mark for mark, names in marked if name in names)
        for row, name in enumerate(result.methods)
        if any(name in names for _, names in marked)
    }
    plain = [name for name, method in result.methods.items() if method.kind == "plain"]
    notes = [f"{conditions(result)}; {result.baseline} is the fastest plain method of {', '.join(plain)}"]
    return Table(f"speed-up against {result.baseline}", columns, rows, notes, marks=marks)


def _differences(result: BenchResult) -> Table:
    columns = ["method", "prompt", "at token", "plain's token", "its token", "plain's lead, logits"]
    parted = {name: method.differences for name, method in result.methods.items() if method.differences}
    rows = [
        [name, entry.row, entry.position, entry.expected, entry.got, entry.margin]
        for name, entries in parted.items()
        for entry in entries[:SHOWN]
    ]
    notes = ["a lead near zero is a tie that rounding decides; `ssft verify` shows the places of streaming"]
    notes += [f"{name}: the first {SHOWN} of {len(found)}" for name, found in parted.items() if len(found) > SHOWN]
    return Table("where texts part from plain's", columns, rows, notes)


def _depths(result: BenchResult) -> Table:
    drafting = {name: method.accepted for name, method in result.methods.items() if sum(method.accepted)}
    last = max((depth for counts in drafting.values() for depth, passes in enumerate(counts) if passes), default=0)
    depths = range(min(last, DEEPEST) + 1)
    columns = ["method", *(Column(f"{depth}", ".0%") for depth in depths)]
    columns += [Column(f"{DEEPEST + 1}+", ".0%")] if last > DEEPEST else []
    rows = []
    for name, counts in drafting.items():
        parts = [sum(counts[depth : depth + 1]) for depth in depths]
        parts += [sum(counts[DEEPEST + 1 :])] if last > DEEPEST else []
        rows.append([name, *(part / sum(counts) for part in parts)])
    notes = [f"draft tree: {', '.join(f'{key} {value}' for key, value in result.tree.items())}"]
    return Table("share of passes by depth of the accepted draft", columns, rows, notes)


def _categories(result: BenchResult) -> Table:
    """Empty where there is one category only."""
    names = dict.fromkeys(name for method in result.methods.values() for name in method.categories)
    rows = []
    for category in names if len(names) > 1 else ():
        cells = {name: method.categories.get(category) for name, method in result.methods.items()}
        first = next(cell for cell in cells.values() if cell is not None)
        speeds = [cell and _speedup(cell, name == cell.baseline) for name, cell in cells.items()]
        rows.append([category, first.rows, first.baseline, *speeds])
    columns = ["category", "prompts", "baseline", *(Column(name, ".2f", "×") for name in result.methods)]
    return Table("speed-up by category", columns, rows)


def _training(result: BenchResult) -> Table:
    facts = {name: method.training for name, method in result.methods.items() if method.training}
    rows = [[name, *(_whole(found.get(key)) for key in TRAINING)] for name, found in facts.items()]
    return Table("what was trained for the methods", ["method", *TRAINING], rows)


def _quality(result: SuiteResult) -> list[Table]:
    qualities = {name: task.quality for name, task in result.tasks.items() if task.quality is not None}

    def estimate(metric: str, means: dict[str, float], intervals: dict[str, tuple[float, float]]) -> Estimate | None:
        return Estimate(means[metric], intervals.get(metric)) if metric in means else None

    scores = [
        [
            name,
            metric,
            found.rows,
            estimate(metric, found.adapter, found.adapter_intervals),
            estimate(metric, found.twin, found.twin_intervals),
            estimate(metric, found.differences, found.difference_intervals),
        ]
        for name, found in qualities.items()
        for metric in found.adapter
    ]
    columns = ["task", "metric", "rows", Column("adapter", ".1f"), Column("twin", ".1f"), Column("difference", "+.1f")]
    unlike = [[name, entry] for name, found in qualities.items() for entry in found.twin_unlike]
    both = [
        Table("quality in percent, with 95 % intervals; the twin was trained without streams", columns, scores, keys=2),
        Table("where the twin's training was another, or is not known", ["task", "adapter's, twin's"], unlike),
    ]
    return [table for table in both if table.rows]


def _speedup(found: MethodResult | CategoryResult, baseline: bool) -> Estimate | float | None:
    """The baseline's own speed-up is 1 by definition, so it has no interval."""
    if baseline or found.speedup is None:
        return found.speedup
    return Estimate(found.speedup, found.speedup_interval)


def _whole(value: Any) -> Any:
    """Whole numbers of seconds."""
    return round(value) if isinstance(value, float) else value
