"""The result of `ssft bench adapters` as tables."""

from typing import Any

from ssft.bench.result import PASSES, AdaptersResult, Comparison
from ssft.tables import Column, Estimate, Table

COMPARED = [Column("ratio (95 % interval)", ".3f"), Column("spread", ".3f"), Column("rows"), Column("same text")]


def heading(result: AdaptersResult) -> str:
    """One line: what was measured, on what."""
    names = ", ".join(f"{name} ({facts['prompts']} prompts)" for name, facts in result.adapters.items())
    return (
        f"{names} over {result.base}: at most {result.max_new_tokens} tokens, {result.rounds} rounds, "
        f"{result.precision} on {result.device}"
    )


def tables(result: AdaptersResult) -> list[Table]:
    """Every section that was measured."""
    found = [*_times(result), _memory(result), *_account(result), *_mixed(result)]
    speeds = [Column(f"{way}, tokens/s", ",.1f") for way in ("plain", "streaming")]
    rows = [
        [batch.batch_size, batch.tokens_per_call, *batch.comparison.values.values(), *_compared(batch.comparison)]
        for batch in result.batches or ()
    ]
    columns = ["batch", Column("tokens/call", ".2f"), *speeds, *COMPARED]
    return [*found, *([Table(f"Batches of {next(iter(result.adapters))}", columns, rows)] if rows else [])]


def _times(result: AdaptersResult) -> list[Table]:
    found = []
    if result.switch:
        columns = ["loaded", Column("set_adapter, µs", ".2f"), Column("set_adapter and one token, ms", ".2f")]
        rows: list[list[Any]] = [[time.loaded, time.microseconds, time.first_token_ms] for time in result.switch]
        found.append(Table("Switching between resident adapters", columns, rows))
    if load := result.load:
        names = [f"2nd to {min(6, load.loads)}th", f"last five of {load.loads}", "all"]
        rows = [list(row) for row in zip(names, (load.early_ms, load.late_ms, load.median_ms), strict=True)]
        found.append(Table("Loading", ["adapters", Column("ms, median", ".1f")], rows))
    return found


def _memory(result: AdaptersResult) -> Table:
    rows: list[list[Any]] = [["base", result.memory.base, None, None]]
    rows += [[name, found.bytes, found.file_bytes, found.ratio] for name, found in result.memory.adapters.items()]
    if growth := result.memory.growth:
        by = f"by {growth.loads} adapters"
        rows.append([f"process, {by}", growth.process_bytes, growth.file_bytes, growth.process_ratio])
        rows.append([f"allocated, {by}", growth.allocated_bytes, growth.file_bytes, growth.allocated_ratio])
    return Table("Memory", ["what", "bytes", "bytes of its files", Column("ratio", ".3f")], rows)


def _account(result: AdaptersResult) -> list[Table]:
    if (account := result.account) is None:
        return []
    points = (account.warm, account.middle, account.end)
    rows: list[list[Any]] = [[f"{at.round:,}", at.process_bytes, at.allocated_bytes, at.tensors] for at in points]
    rows.append(["growth", account.process_growth, account.allocated_growth, account.tensor_growth])
    rows.append(["growth per round", account.process_growth_per_round, None, None])
    title = f"Account of {account.rounds:,} rounds of load, set, generate, delete"
    return [Table(title, ["after round", Column("process", ",.0f"), "allocated", "tensors"], rows)]


def _mixed(result: AdaptersResult) -> list[Table]:
    if (mixed := result.mixed) is None:
        return []
    rows = []
    for found in filter(None, (mixed.routing, mixed.low_rank, mixed.tasks)):
        values = [value * (1e3 if found.unit == PASSES else 1) for value in found.values.values()]
        unit = "ms/pass" if found.unit == PASSES else found.unit
        rows.append(["; ".join(found.values), unit, *values, *_compared(found)])
    title = f"Mixed batches: {mixed.identical} of {mixed.rows} rows are what the row gives alone, without speculation"
    columns = ["mixed batches of 8", "unit", Column("first", ",.1f"), Column("second", ",.1f"), *COMPARED]
    parted = [[d.adapter, d.row, d.position, d.margin, d.expected, d.got] for d in mixed.differences]
    names = ["adapter", "row", "position", "margin", "token alone", "token in the batch"]
    near = Table("Differences; near-zero margins are ties that rounding decides", names, parted)
    return [Table(title, columns, rows), *([near] if parted else [])]


def _compared(found: Comparison) -> list[Any]:
    """Cells of `COMPARED`."""
    return [Estimate(found.ratio, found.interval), found.spread, found.rows, found.identical]
