"""The result of `ssft bench adapters` as tables."""

from ssft.results.schema import AdaptersResult
from ssft.tables import Column, Estimate, Table, count


def heading(result: AdaptersResult) -> str:
    """One line: what was measured, on what."""
    names = ", ".join(f"{name} ({facts['prompts']} prompts)" for name, facts in result.adapters.items())
    return (
        f"{names} over {result.base}: at most {result.max_new_tokens} tokens, {count(result.rounds, 'round')}, "
        f"{result.precision} on {result.device}"
    )


def tables(result: AdaptersResult) -> list[Table]:
    """The tables that the result has something for."""
    sizes = [[name, facts["bytes"], facts["file_bytes"]] for name, facts in result.adapters.items()]
    times = [Column("load, ms", ",.1f"), Column("switch, µs", ".2f")]
    points = [
        [at.loaded, at.load_ms, at.switch_us, at.process_bytes, at.allocated_bytes, at.tensors] for at in result.shelf
    ]
    compared = [
        [
            found.title,
            *(f"{name}, {value:,.1f} tokens/s" for name, value in found.tokens_per_second.items()),
            found.tokens_per_call,
            Estimate(found.ratio, found.interval),
            None if found.identical is None else f"{found.identical}/{found.rows}",
        ]
        for found in result.comparisons
    ]
    ways = [Column("first", right=True), Column("second", right=True)]
    numbers = [Column("tokens/call", ".2f"), Column("ratio (95 % interval)", ".3f"), Column("same text", right=True)]
    parted = [
        [name, d.row, d.position, d.margin, d.expected, d.got]
        for name, found in result.differences.items()
        for d in found
    ]
    same = f"{result.mixed_rows - len(parted)} of {result.mixed_rows}"
    found = [
        Table("Sizes", ["what", "bytes", "bytes of its files"], [["base", result.base_bytes, None], *sizes]),
        Table("Adapters loaded", ["loaded", *times, "process, bytes", "GPU, bytes", "tensors"], points),
        Table("Batches, the second way against the first", ["batches", *ways, *numbers], compared),
        Table(
            "Differences; near-zero margins are ties that rounding decides",
            ["adapter", "row", "position", "margin", "token alone", "token in the batch"],
            parted,
        ),
    ]
    if result.mixed_rows:
        found[2].notes.append(f"mixed tasks: {same} rows are what the row gives alone, without speculation")
    return [table for table in found if table.rows]
