"""The result of `ssft bench adapters` as tables."""

from typing import Any

from ssft.bench.result import PASSES, Account, AdaptersResult, Comparison, MixedResult

Table = tuple[str, list[str], list[list[Any]]]
"""Title, headers, rows."""

RATIO = ["ratio", "95 % interval", "spread"]


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
    if result.switch is not None:
        headers = ["loaded", "set_adapter, µs", "set_adapter and one token, ms"]
        rows = [[t.loaded, f"{t.microseconds:.2f}", f"{t.first_token_ms:.2f}"] for t in result.switch]
        found.append(("Switching between resident adapters", headers, rows))
    if result.load is not None:
        load = result.load
        few = f"2nd to {min(6, load.loads)}th"
        names = [(few, load.early_ms), (f"last five of {load.loads}", load.late_ms), ("all", load.median_ms)]
        found.append(("Loading", ["adapters", "ms, median"], [[name, f"{ms:.1f}"] for name, ms in names]))
    found.append(("Memory", ["what", "bytes", "bytes of its files", "ratio"], _memory_rows(result)))
    if result.account is not None:
        title = f"Account of {result.account.rounds:,} rounds of load, set, generate, delete"
        found.append((title, ["after round", "process", "allocated", "tensors"], _account_rows(result.account)))
    if result.mixed is not None:
        headers = ["mixed batches of 8", "first", "second", *RATIO, "same text"]
        found.append((_identity(result.mixed), headers, _mixed_rows(result.mixed)))
        if result.mixed.differences:
            rows = [[d.adapter, d.row, d.position, d.margin, d.expected, d.got] for d in result.mixed.differences]
            headers = ["adapter", "row", "position", "margin", "token alone", "token in the batch"]
            found.append(("Differences; near-zero margins are ties that rounding decides", headers, rows))
    if result.batches is not None:
        rows = [
            [
                batch.batch_size,
                *(f"{value:,.1f}" for value in batch.comparison.values.values()),
                *_ratio(batch.comparison),
                f"{batch.tokens_per_call:.2f}",
                _same(batch.comparison),
            ]
            for batch in result.batches
        ]
        headers = ["batch", "plain, tokens/s", "streaming, tokens/s", *RATIO, "tokens/call", "same text"]
        found.append((f"Batches of {next(iter(result.adapters))}", headers, rows))
    return found


def _memory_rows(result: AdaptersResult) -> list[list[Any]]:
    memory = result.memory
    rows: list[list[Any]] = [["base", memory.base, None, None]]
    rows += [[name, m.bytes, m.file_bytes, f"{m.ratio:.3f}"] for name, m in memory.adapters.items()]
    if (growth := memory.growth) is not None:
        for what, gained, ratio in (
            ("process", growth.process_bytes, growth.process_ratio),
            ("allocated", growth.allocated_bytes, growth.allocated_ratio),
        ):
            if gained is not None:
                rows.append([f"{what}, by {growth.loads} adapters", gained, growth.file_bytes, f"{ratio:.3f}"])
    return rows


def _account_rows(account: Account) -> list[list[Any]]:
    rows: list[list[Any]] = [
        [f"{point.round:,}", point.process_bytes, point.allocated_bytes, point.tensors]
        for point in (account.warm, account.middle, account.end)
    ]
    rows.append(["growth", account.process_growth, account.allocated_growth, account.tensor_growth])
    per_round = account.process_growth_per_round
    rows.append(["growth per round", None if per_round is None else f"{per_round:,.1f}", None, None])
    return rows


def _identity(mixed: MixedResult) -> str:
    return f"Mixed batches: {mixed.identical} of {mixed.rows} rows are what the row gives alone, without speculation"


def _mixed_rows(mixed: MixedResult) -> list[list[Any]]:
    rows = []
    for comparison in (mixed.routing, mixed.low_rank, mixed.tasks):
        if comparison is not None:
            first, second = comparison.values
            values = [
                f"{1e3 * value:,.2f} ms/pass" if comparison.unit == PASSES else f"{value:,.1f} tokens/s"
                for value in comparison.values.values()
            ]
            rows.append([f"{first}; {second}", *values, *_ratio(comparison), _same(comparison)])
    return rows


def _ratio(comparison: Comparison) -> list[str]:
    interval = "-" if comparison.interval is None else "{:.2f} - {:.2f}".format(*comparison.interval)
    return [f"{comparison.ratio:.3f}", interval, f"{comparison.spread:.3f}"]


def _same(comparison: Comparison) -> str:
    return "-" if comparison.identical is None else f"{comparison.identical}/{comparison.rows}"
