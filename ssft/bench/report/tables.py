"""A comparison as tables, which the terminal and the page show alike."""

import re
from typing import Any

from ssft.bench.report.findings import broken, fastest
from ssft.results.schema import BenchResult, CategoryResult, MethodResult, SuiteResult
from ssft.tables import BYTES, Column, Table, count, estimate

TRAINING = ("data", "rows", "steps", "seconds", "device")
SHOWN = 3
"""Places where texts part, per method."""
COLUMNS = {
    "speedup": Column("speed-up", ".2f", "×"),
    "decode_speedup": Column("decoding", ".2f", "×"),
    "tokens_per_second": Column("tokens/s", ",.1f"),
    "tokens_per_call": Column("tokens/call", ".2f"),
    "calls": Column("calls"),
    "prompt_seconds": Column("prompts, s", ",.2f"),
    "decode_seconds": Column("decoding, s", ",.2f"),
    "identical": Column("same text"),
    "extra_parameters": Column("extra parameters"),
    "extra_bytes": Column("on disk", BYTES),
    "peak_bytes": Column("peak memory", BYTES),
}
"""How the fields of a `MethodResult` are shown, wherever they are; speed-ups with their 95 % intervals."""


def method_cell(method: MethodResult | CategoryResult | None, key: str) -> Any:
    """A field of a method's result for its column of `COLUMNS`; None where it did not run."""
    if method is None or key != "speedup":
        return getattr(method, key, None)
    return estimate(method.speedup, method.speedup_interval)


def heading(result: BenchResult | SuiteResult) -> str:
    """One line: what was measured, on what."""
    if isinstance(result, BenchResult):
        return f"{result.adapter}: {conditions(result)}, {machine(result)}"
    ending = ", interrupted" if result.interrupted else ""
    return f"{', '.join(result.tasks) or 'no task'}: {machine(result)}{ending}"


def machine(result: BenchResult | SuiteResult) -> str:
    """`float32 on cpu: Intel Xeon, 2 threads`; the threads once, also where the device's name tells others."""
    device = re.sub(r", \d+ threads?$", "", result.device)
    return f"{result.precision} on {device}, {count(result.threads, 'thread')}"


def conditions(result: BenchResult) -> str:
    """`10 prompts, at most 96 tokens, batch 1, 3 rounds`, and the temperature where tokens were drawn, and the form of
    the texts where there is one."""
    drawn = "" if result.temperature is None else f", temperature {result.temperature:g}"
    drawn += "" if result.form is None else f", by a {result.form.split()[0]}"
    return (
        f"{count(result.rows, 'prompt')}, at most {result.max_new_tokens} tokens, batch {result.batch_size}{drawn}, "
        f"{count(result.rounds, 'round')}{' before an interruption' if result.interrupted else ''}"
    )


def tables(result: BenchResult | SuiteResult) -> list[Table]:
    """The tables that a result has something for: methods, where texts part, depths of drafts, categories (speed, then
    what drafts give), training, methods left out; of a suite those of each task, then quality."""
    if isinstance(result, BenchResult):
        found = [part(result) for part in (_methods, _differences, _depths, _categories, _drafts, _training)]
        found.append(Table("left out", ["method", "reason"], [list(item) for item in result.left_out.items()]))
        return [table for table in found if table.rows]
    found = []
    for name, task in result.tasks.items():
        for table in tables(task.bench):
            table.title = f"{name}: {table.title}"
            found.append(table)
    return [*found, *(table for table in _quality(result) if table.rows)]


def _methods(result: BenchResult) -> Table:
    rows = [[name, *(method_cell(method, key) for key in COLUMNS)] for name, method in result.methods.items()]
    marked: dict[str, Any] = {"best": [fastest(result)], "base": [result.baseline], "wrong": broken(result)}
    marks = {
        row: " ".join(mark for mark, names in marked.items() if name in names)
        for row, name in enumerate(result.methods)
    }
    plain = [name for name, method in result.methods.items() if method.kind == "plain"]
    notes = [f"{conditions(result)}; {result.baseline} is the fastest plain method of {', '.join(plain)}"]
    return Table(f"speed-up against {result.baseline}", ["method", *COLUMNS.values()], rows, notes, marks=marks)


def _differences(result: BenchResult) -> Table:
    columns = ["method", "prompt", "at token", "plain's token", "its token", "plain's lead, logits"]
    rows = [
        [name, entry.row, entry.position, entry.expected, entry.got, entry.margin]
        for name, method in result.methods.items()
        for entry in method.differences[:SHOWN]
    ]
    notes = [f"at most {SHOWN} of each method; a lead near zero is a tie that rounding decides"]
    return Table("where texts part from plain's", columns, rows, notes)


def _depths(result: BenchResult) -> Table:
    drafting = {name: method.accepted for name, method in result.methods.items() if sum(method.accepted)}
    last = max((depth for counts in drafting.values() for depth, passes in enumerate(counts) if passes), default=0)
    rows = [
        [name, *(sum(counts[depth : depth + 1]) / sum(counts) for depth in range(last + 1))]
        for name, counts in drafting.items()
    ]
    columns = ["method", *(Column(f"{depth}", ".0%") for depth in range(last + 1))]
    notes = [f"draft tree: {', '.join(f'{key} {value}' for key, value in result.tree.items())}"]
    return Table("share of passes by depth of the accepted draft", columns, rows, notes)


def _categories(result: BenchResult) -> Table:
    """Empty where there is one category only."""
    names = dict.fromkeys(name for method in result.methods.values() for name in method.categories)
    rows: list[list[Any]] = []
    for category in names if len(names) > 1 else ():
        cells = [method.categories.get(category) for method in result.methods.values()]
        first = next(cell for cell in cells if cell is not None)
        rows.append([category, first.rows, first.baseline, *(method_cell(cell, "speedup") for cell in cells)])
    columns = ["category", "prompts", "baseline", *(Column(name, ".2f", "×") for name in result.methods)]
    return Table("speed-up by category", columns, rows)


def _drafts(result: BenchResult) -> Table:
    """Tokens per call and identity by category; empty where there is one category only, or no method drafts."""
    rows = [
        [category, name, own.rows, own.tokens_per_call, own.identical]
        for name, method in result.methods.items()
        for category, own in method.categories.items()
        if method.kind == "speculative" and len(method.categories) > 1
    ]
    columns = ["category", "method", "prompts", COLUMNS["tokens_per_call"], COLUMNS["identical"]]
    return Table("drafts by category", columns, sorted(rows, key=lambda row: row[0]), keys=2)


def _training(result: BenchResult) -> Table:
    facts = {name: method.training for name, method in result.methods.items() if method.training}
    rows = [[name, *(found.get(key) for key in TRAINING)] for name, found in facts.items()]
    columns = [Column(key, ",.0f" if key == "seconds" else "") for key in TRAINING]
    return Table("what was trained for the methods", ["method", *columns], rows)


def _quality(result: SuiteResult) -> list[Table]:
    qualities = {name: task.quality for name, task in result.tasks.items() if task.quality is not None}
    scores = [
        [
            name,
            metric,
            found.rows,
            estimate(value, found.adapter_intervals.get(metric)),
            estimate(found.twin.get(metric), found.twin_intervals.get(metric)),
            estimate(found.differences.get(metric), found.difference_intervals.get(metric)),
        ]
        for name, found in qualities.items()
        for metric, value in found.adapter.items()
    ]
    columns = ["task", "metric", "rows", Column("adapter", ".1f"), Column("twin", ".1f"), Column("difference", "+.1f")]
    unlike = [[name, entry] for name, found in qualities.items() for entry in found.twin_unlike]
    return [
        Table("quality in percent, with 95 % intervals; the twin was trained without streams", columns, scores, keys=2),
        Table("where the twin's training was another, or is not known", ["task", "adapter's, twin's"], unlike),
    ]
