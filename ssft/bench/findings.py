"""What a comparison found, as sentences that follow from its numbers: who is fastest, how surely, with what text."""

from dataclasses import dataclass, field

from ssft.bench.result import BenchResult, MethodResult

OURS = "streaming"
"""The method that this project is about; a task's sentences say where it stands, first or not."""

YARDSTICK = "yardstick"


@dataclass(frozen=True)
class Finding:
    """One task in a few sentences.

    headline: who is fastest and how surely. details: where streaming stands, whose texts are the same, what the
    yardstick does. leader: the fastest method beside the baseline, None where only the baseline ran. clear: whether
    the leader's interval lies above 1.
    """

    headline: str
    details: list[str] = field(default_factory=list)
    leader: str | None = None
    clear: bool = False


def contenders(result: BenchResult) -> dict[str, MethodResult]:
    """Methods that are measured against the baseline, fastest first."""
    found = {
        name: method
        for name, method in result.methods.items()
        if name != result.baseline and method.kind != YARDSTICK and method.speedup is not None
    }
    return dict(sorted(found.items(), key=lambda item: -_speedup(item[1])))


def find(result: BenchResult) -> Finding:
    """The sentences for one task."""
    ranked = contenders(result)
    details = [*_identity(result), *_yardsticks(result)]
    if result.interrupted:
        details.append(f"The run was interrupted; the numbers cover {count(result.rounds, 'whole round')}.")
    if not ranked:
        return Finding(f"Only {result.baseline} ran, so there is nothing to compare it with.", details)
    leader, best = next(iter(ranked.items()))
    low, high = span(best)
    clear = low > 1
    if clear:
        headline = f"{leader} is the fastest: {times(best)} as fast as {result.baseline}."
    elif high < 1:
        headline = f"Nothing beats {result.baseline}: the nearest, {leader}, is {times(best)} as fast."
    else:
        headline = (
            f"Nothing is clearly faster than {result.baseline}: {leader} comes out {times(best)} as fast, "
            "and that interval covers 1."
        )
    return Finding(headline, [*_runner_up(ranked), *details], leader, clear)


def times(method: MethodResult) -> str:
    """`1.84 times (95 % interval 1.62 to 2.05)`."""
    return "{:.2f} times (95 % interval {:.2f} to {:.2f})".format(_speedup(method), *span(method))


def span(method: MethodResult) -> tuple[float, float]:
    """The speed-up's interval; without one, the speed-up itself."""
    return method.speedup_interval or (_speedup(method), _speedup(method))


def overlap(left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether two intervals have a point in common."""
    return left[0] <= right[1] and right[0] <= left[1]


def differing(result: BenchResult) -> dict[str, int]:
    """Method -> prompts whose text is not plain's, for those that promise it and break the promise."""
    found = {name: result.rows - (method.identical or 0) for name, method in checked(result).items() if method.lossless}
    return {name: rows for name, rows in found.items() if rows}


def checked(result: BenchResult) -> dict[str, MethodResult]:
    """Methods whose text was compared with plain's, without plain itself."""
    return {name: method for name, method in result.methods.items() if name != "plain" and method.identical is not None}


def count(number: int, noun: str) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _speedup(method: MethodResult) -> float:
    return method.speedup or 0.0


def _runner_up(ranked: dict[str, MethodResult]) -> list[str]:
    """Where streaming stands, or if it leads, who comes next."""
    leader, *others = ranked
    other = OURS if OURS in others else next((name for name in others if ranked[name].kind == "speculative"), None)
    if other is None:
        return []
    near = overlap(span(ranked[leader]), span(ranked[other]))
    judged = "the two intervals overlap" if near else "the two intervals do not overlap"
    opening = f"{other} comes" if other == OURS else f"Next is {other}, which comes"
    return [f"{opening} to {times(ranked[other])}; {judged}."]


def _identity(result: BenchResult) -> list[str]:
    compared = checked(result)
    promised = [name for name, method in compared.items() if method.lossless]
    wrong = differing(result)
    same = [name for name in promised if name not in wrong]
    lines = []
    for name, rows in wrong.items():
        lines.append(f"{name} does not keep its promise: its text differs from plain's on {_of(rows, result.rows)}.")
    if same:
        lines.append(f"The same text as plain's, token for token, on {_all(result.rows)}: {', '.join(same)}.")
    for name, method in compared.items():
        if not method.lossless:
            rows = method.identical or 0
            lines.append(f"{name} does not promise plain's text; it gives it on {_of(rows, result.rows)}.")
    return lines


def _yardsticks(result: BenchResult) -> list[str]:
    """Tokens per second of other programs, beside the fastest method here."""
    found = {name: method for name, method in result.methods.items() if method.kind == YARDSTICK}
    rest = {name: method for name, method in result.methods.items() if name not in found}
    if not rest:
        return []
    fastest = max(rest, key=lambda name: rest[name].tokens_per_second)
    return [
        f"The yardstick {name}, another program on its own build of the base and with a text of its own, makes "
        f"{method.tokens_per_second:.1f} tokens per second; {fastest} makes {rest[fastest].tokens_per_second:.1f}."
        for name, method in found.items()
    ]


def _of(part: int, rows: int) -> str:
    return f"{part:,} of {count(rows, 'prompt')}"


def _all(rows: int) -> str:
    return "the one prompt" if rows == 1 else f"all {rows:,} prompts"
