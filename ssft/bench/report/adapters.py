"""The result of `ssft bench adapters` as tables."""

from typing import Any

from ssft.bench.result import PASSES, Account, AdaptersResult, Comparison, MemoryResult, MixedResult
from ssft.tables import Column, Estimate, Table

RATIO = [Column("ratio (95 % interval)", ".3f"), Column("spread", ".3f")]
SAME = Column("same text", right=True)


def heading(result: AdaptersResult) -> str:
    """One line: what was measured, on what."""
    names = ", ".join(f"{name} ({facts['prompts']} prompts)" for name, facts in result.adapters.items())
    return (
        f"{names} over {result.base}: at most {result.max_new_tokens} tokens, {result.rounds} rounds, "
        f"{result.precision} on {result.device}"
    )


def tables(result: AdaptersResult) -> list[Table]:
    """Every section that was measured."""
    found: list[Table] = []
    rows: list[list[Any]]
    if result.switch is not None:
        columns = ["loaded", Column("set_adapter, µs", ".2f"), Column("set_adapter and one token, ms", ".2f")]
        rows = [[time.loaded, time.microseconds, time.first_token_ms] for time in result.switch]
        found.append(Table("Switching between resident adapters", columns, rows))
    if (load := result.load) is not None:
        few = f"2nd to {min(6, load.loads)}th"
        rows = [[few, load.early_ms], [f"last five of {load.loads}", load.late_ms], ["all", load.median_ms]]
        found.append(Table("Loading", ["adapters", Column("ms, median", ".1f")], rows))
    found.append(_memory(result.memory))
    if result.account is not None:
        found.append(_account(result.account))
    if result.mixed is not None:
        found += _mixed(result.mixed)
    if result.batches is not None:
        speed = [Column(f"{way}, tokens/s", ",.1f") for way in ("plain", "streaming")]
        rows = [
            [
                batch.batch_size,
                *batch.comparison.values.values(),
                *_ratio(batch.comparison),
                batch.tokens_per_call,
                _same(batch.comparison),
            ]
            for batch in result.batches
        ]
        columns = ["batch", *speed, *RATIO, Column("tokens/call", ".2f"), SAME]
        found.append(Table(f"Batches of {next(iter(result.adapters))}", columns, rows))
    return found


def _memory(memory: MemoryResult) -> Table:
    rows: list[list[Any]] = [["base", memory.base, None, None]]
    rows += [[name, found.bytes, found.file_bytes, found.ratio] for name, found in memory.adapters.items()]
    if (growth := memory.growth) is not None:
        process = ("process", growth.process_bytes, growth.process_ratio)
        for what, gained, ratio in (process, ("allocated", growth.allocated_bytes, growth.allocated_ratio)):
            if gained is not None:
                rows.append([f"{what}, by {growth.loads} adapters", gained, growth.file_bytes, ratio])
    return Table("Memory", ["what", "bytes", "bytes of its files", Column("ratio", ".3f")], rows)


def _account(account: Account) -> Table:
    points = (account.warm, account.middle, account.end)
    rows: list[list[Any]] = [
        [f"{point.round:,}", point.process_bytes, point.allocated_bytes, point.tensors] for point in points
    ]
    rows.append(["growth", account.process_growth, account.allocated_growth, account.tensor_growth])
    rows.append(["growth per round", account.process_growth_per_round, None, None])
    title = f"Account of {account.rounds:,} rounds of load, set, generate, delete"
    return Table(title, ["after round", Column("process", ",.0f"), "allocated", "tensors"], rows)


def _mixed(mixed: MixedResult) -> list[Table]:
    rows = []
    for comparison in filter(None, (mixed.routing, mixed.low_rank, mixed.tasks)):
        values = [
            f"{1e3 * value:,.2f} ms/pass" if comparison.unit == PASSES else f"{value:,.1f} tokens/s"
            for value in comparison.values.values()
        ]
        rows.append(["; ".join(comparison.values), *values, *_ratio(comparison), _same(comparison)])
    title = f"Mixed batches: {mixed.identical} of {mixed.rows} rows are what the row gives alone, without speculation"
    sides = [Column("first", right=True), Column("second", right=True)]
    parted = [[d.adapter, d.row, d.position, d.margin, d.expected, d.got] for d in mixed.differences]
    columns = ["adapter", "row", "position", "margin", "token alone", "token in the batch"]
    found = [Table(title, ["mixed batches of 8", *sides, *RATIO, SAME], rows)]
    return found + (
        [Table("Differences; near-zero margins are ties that rounding decides", columns, parted)] * bool(parted)
    )


def _ratio(comparison: Comparison) -> list[Estimate | float]:
    return [Estimate(comparison.ratio, comparison.interval), comparison.spread]


def _same(comparison: Comparison) -> str | None:
    return None if comparison.identical is None else f"{comparison.identical}/{comparison.rows}"
