"""The result of `ssft bench adapters` as tables."""

from typing import Any

from ssft.bench.result import PASSES, AdaptersResult, Comparison
from ssft.tables import Column, Estimate, Table

COMPARED = [Column("ratio (95 % interval)", ".3f"), Column("spread", ".3f"), Column("same text", right=True)]
Rows = list[list[Any]]


def heading(result: AdaptersResult) -> str:
    """One line: what was measured, on what."""
    names = ", ".join(f"{name} ({facts['prompts']} prompts)" for name, facts in result.adapters.items())
    return (
        f"{names} over {result.base}: at most {result.max_new_tokens} tokens, {result.rounds} rounds, "
        f"{result.precision} on {result.device}"
    )


def tables(result: AdaptersResult) -> list[Table]:
    """Every section that was measured."""
    sections = (_switch, _load, _memory, _account, _mixed, _differences, _batches)
    return [table for section in sections for table in section(result) if table.rows]


def _switch(result: AdaptersResult) -> list[Table]:
    columns = ["loaded", Column("set_adapter, µs", ".2f"), Column("set_adapter and one token, ms", ".2f")]
    rows: Rows = [[time.loaded, time.microseconds, time.first_token_ms] for time in result.switch or ()]
    return [Table("Switching between resident adapters", columns, rows)]


def _load(result: AdaptersResult) -> list[Table]:
    load = result.load
    if load is None:
        return []
    few = f"2nd to {min(6, load.loads)}th"
    rows: Rows = [[few, load.early_ms], [f"last five of {load.loads}", load.late_ms], ["all", load.median_ms]]
    return [Table("Loading", ["adapters", Column("ms, median", ".1f")], rows)]


def _memory(result: AdaptersResult) -> list[Table]:
    memory, growth = result.memory, result.memory.growth
    rows: Rows = [["base", memory.base, None, None]]
    rows += [[name, found.bytes, found.file_bytes, found.ratio] for name, found in memory.adapters.items()]
    if growth is not None:
        process = ("process", growth.process_bytes, growth.process_ratio)
        allocated = ("allocated", growth.allocated_bytes, growth.allocated_ratio)
        rows += [
            [f"{what}, by {growth.loads} adapters", gained, growth.file_bytes, ratio]
            for what, gained, ratio in (process, allocated)
            if gained is not None
        ]
    return [Table("Memory", ["what", "bytes", "bytes of its files", Column("ratio", ".3f")], rows)]


def _account(result: AdaptersResult) -> list[Table]:
    account = result.account
    if account is None:
        return []
    points = (account.warm, account.middle, account.end)
    rows: Rows = [[f"{at.round:,}", at.process_bytes, at.allocated_bytes, at.tensors] for at in points]
    rows.append(["growth", account.process_growth, account.allocated_growth, account.tensor_growth])
    rows.append(["growth per round", account.process_growth_per_round, None, None])
    title = f"Account of {account.rounds:,} rounds of load, set, generate, delete"
    return [Table(title, ["after round", Column("process", ",.0f"), "allocated", "tensors"], rows)]


def _mixed(result: AdaptersResult) -> list[Table]:
    mixed = result.mixed
    if mixed is None:
        return []
    rows: Rows = []
    for found in filter(None, (mixed.routing, mixed.low_rank, mixed.tasks)):
        passes = found.unit == PASSES
        values = [f"{1e3 * v:,.2f} ms/pass" if passes else f"{v:,.1f} tokens/s" for v in found.values.values()]
        rows.append(["; ".join(found.values), *values, *_compared(found)])
    title = f"Mixed batches: {mixed.identical} of {mixed.rows} rows are what the row gives alone, without speculation"
    columns = ["mixed batches of 8", Column("first", right=True), Column("second", right=True), *COMPARED]
    return [Table(title, columns, rows)]


def _differences(result: AdaptersResult) -> list[Table]:
    parted = result.mixed.differences if result.mixed is not None else []
    rows: Rows = [[d.adapter, d.row, d.position, d.margin, d.expected, d.got] for d in parted]
    columns = ["adapter", "row", "position", "margin", "token alone", "token in the batch"]
    return [Table("Differences; near-zero margins are ties that rounding decides", columns, rows)]


def _batches(result: AdaptersResult) -> list[Table]:
    speeds = [Column(f"{way}, tokens/s", ",.1f") for way in ("plain", "streaming")]
    rows: Rows = [
        [batch.batch_size, batch.tokens_per_call, *batch.comparison.values.values(), *_compared(batch.comparison)]
        for batch in result.batches or ()
    ]
    columns = ["batch", Column("tokens/call", ".2f"), *speeds, *COMPARED]
    return [Table(f"Batches of {next(iter(result.adapters))}", columns, rows)]


def _compared(found: Comparison) -> list[Any]:
    """Cells of `COMPARED`."""
    same = None if found.identical is None else f"{found.identical}/{found.rows}"
    return [Estimate(found.ratio, found.interval), found.spread, same]
