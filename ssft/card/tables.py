"""The measured tables of a card, each row with the number of the command that made it."""

from ssft.bundle.results import QualityRow, Results, SpeedRow
from ssft.card.markdown import fenced, plain

NOTHING = (
    "Nothing measured yet: `ssft verify`, `ssft bench` and `ssft eval` write results, `ssft card` shows them here."
)


def measured_section(results: Results) -> list[str]:
    """Lines of "## Measured": speed by device, quality, and the commands."""
    lines = ["## Measured", ""]
    if results.stale:
        lines += ["Results of an earlier state of this adapter's weights or settings are not shown.", ""]
    numbers = commands(results)
    if not numbers:
        return [*lines, NOTHING, ""]
    for device in dict.fromkeys(row.device for row in results.speed):
        rows = [row for row in results.speed if row.device == device]
        lines += [f"Speed and identity on {plain(device)}:", "", *_speed_table(rows, numbers), ""]
    if results.quality:
        unlike = dict.fromkeys(row.twin_unlike for row in results.quality if row.twin_unlike)
        twin = "a plain LoRA (below)" if unlike else "the same training without streams"
        lines += [f"Quality, in percent, with 95 % intervals; the twin is {twin}:", ""]
        lines += [*_quality_table(results.quality, numbers), ""]
        lines += [line for text in unlike for line in (f"The twin: {plain(text)}.", "")]
    listing = "\n".join(f"{' '.join(command.split())}   # [{number}]" for command, number in numbers.items())
    return [*lines, "Made by:", "", *fenced("bash", listing), ""]


def commands(results: Results) -> dict[str, int]:
    """Every command that made a row -> its number, from 1 on."""
    found = [row.command for row in results.speed]
    for row in results.quality:
        found += [row.command, row.twin_command]
    return {command: number for number, command in enumerate(dict.fromkeys(filter(None, found)), start=1)}


def _speed_table(rows: list[SpeedRow], numbers: dict[str, int]) -> list[str]:
    lines = [
        "| method | tokens per call | speed-up (95 % interval) | same text | precision, batch, tree | data | by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            plain(row.method),
            f"{row.tokens / row.calls:.2f}" if row.calls else "-",
            _speedup(row),
            f"{row.identical} of {row.rows} ({plain(row.reference)})" if row.identical is not None else "-",
            plain(", ".join(filter(None, (row.precision, str(row.batch_size), row.tree)))),
            plain(f"{row.data}: {row.rows} prompts, at most {row.max_new_tokens} tokens"),
            f"[{numbers[row.command]}]",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _speedup(row: SpeedRow) -> str:
    if row.speedup is None:
        return "-"
    if row.method == row.baseline:
        return "1 (baseline)"
    value = _interval(row.speedup, row.speedup_low, row.speedup_high)
    return f"{value} x {plain(row.baseline)}, {row.rounds} rounds"


def _quality_table(rows: list[QualityRow], numbers: dict[str, int]) -> list[str]:
    lines = ["| metric | adapter | twin | difference | data, precision | by |", "|---|---|---|---|---|---|"]
    for row in rows:
        made = f"[{numbers[row.command]}]"
        cells = [
            plain(row.metric),
            _interval(row.value, row.low, row.high),
            _interval(row.twin, row.twin_low, row.twin_high),
            _interval(row.difference, row.difference_low, row.difference_high),
            plain(f"{row.data}: {row.rows} rows, {row.precision}"),
            f"{made}, [{numbers[row.twin_command]}]" if row.twin_command else made,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" ({low:.2f} - {high:.2f})" if low is not None and high is not None else "")
