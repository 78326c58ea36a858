"""What a comparison found, as sentences that follow from its numbers: who is fastest, how surely, with what text."""

from dataclasses import dataclass, field

from ssft.bench.result import BenchResult, MethodResult

OURS = "streaming"
"""The method that this project is about; a task's sentences say where it stands, first or not."""

YARDSTICK = "yardstick"
LOW_PRECISION = ("bfloat16", "float16", "4bit")
TIE = 0.5
"""Logits: in low precision, rounding decides where plain's best token leads by no more."""
TOO_FEW = "too few rounds or prompts for an interval"


@dataclass(frozen=True)
class Finding:
    """One task in a few sentences.

    headline: who is fastest and how surely. details: where streaming stands, whose texts are the same, what the
    yardstick does. leader: the fastest of `ranked`, None where that is empty. clear: whether the leader's interval lies
    above 1.
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


def ranked(result: BenchResult) -> dict[str, MethodResult]:
    """`contenders` without those that broke their promise, whose speed may come from their other text."""
    wrong = broken(result)
    return {name: method for name, method in contenders(result).items() if name not in wrong}


def fastest(result: BenchResult) -> str | None:
    """The first of `ranked` if it is faster than the baseline; nothing stands out where nothing beats that."""
    name, method = next(iter(ranked(result).items()), (None, None))
    return name if method is not None and _speedup(method) > 1 else None


def find(result: BenchResult) -> Finding:
    """The sentences for one task."""
    places = ranked(result)
    details = [*_identity(result), *_yardsticks(result)]
    if result.interrupted:
        details.append(f"The run was interrupted; the numbers cover {count(result.rounds, 'whole round')}.")
    if not places:
        if contenders(result):
            return Finding(f"No method beside {result.baseline} keeps plain's text, so none is ranked.", details)
        return Finding(f"Only {result.baseline} ran, so there is nothing to compare it with.", details)
    leader, best = next(iter(places.items()))
    clear = best.speedup_interval is not None and best.speedup_interval[0] > 1
    if clear:
        headline = f"{leader} is the fastest: {times(best)} as fast as {result.baseline}."
    elif best.speedup_interval is not None and best.speedup_interval[1] < 1:
        headline = f"Nothing beats {result.baseline}: the nearest, {leader}, is {times(best)} as fast."
    else:
        why = f"there are {TOO_FEW}" if best.speedup_interval is None else "that interval covers 1"
        number = f"{_speedup(best):.2f} times" if best.speedup_interval is None else times(best)
        headline = f"Nothing is clearly faster than {result.baseline}: {leader} comes out {number} as fast, and {why}."
    return Finding(headline, [*_runner_up(places), *details], leader, clear)


def times(method: MethodResult) -> str:
    """`1.84 times (95 % interval 1.62 to 2.05)`."""
    if method.speedup_interval is None:
        return f"{_speedup(method):.2f} times ({TOO_FEW})"
    return "{:.2f} times (95 % interval {:.2f} to {:.2f})".format(_speedup(method), *method.speedup_interval)


def span(method: MethodResult) -> tuple[float, float]:
    """Ends of a bar: the speed-up's interval; without one, the speed-up itself."""
    return method.speedup_interval or (_speedup(method), _speedup(method))


def overlap(left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether two intervals have a point in common."""
    return left[0] <= right[1] and right[0] <= left[1]


def differing(result: BenchResult) -> dict[str, int]:
    """Method -> prompts whose text is not plain's, for those that promise it and break the promise."""
    found = {name: result.rows - (method.identical or 0) for name, method in checked(result).items() if method.lossless}
    return {name: rows for name, rows in found.items() if rows}


def ties(result: BenchResult) -> dict[str, int]:
    """The methods of `differing` whose texts all part where rounding decides, which is no broken promise."""
    if result.precision not in LOW_PRECISION:
        return {}
    found = {}
    for name, rows in differing(result).items():
        margins = [difference.margin for difference in result.methods[name].differences]
        # A difference without a place (or beyond plain's end) cannot be shown to be a tie.
        if len(margins) >= rows and all(margin is not None and margin <= TIE for margin in margins):
            found[name] = rows
    return found


def broken(result: BenchResult) -> dict[str, int]:
    """The methods of `differing` without `ties`."""
    tied = ties(result)
    return {name: rows for name, rows in differing(result).items() if name not in tied}


def checked(result: BenchResult) -> dict[str, MethodResult]:
    """Methods whose text was compared with plain's, without plain itself."""
    return {name: method for name, method in result.methods.items() if name != "plain" and method.identical is not None}


def count(number: int, noun: str) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _speedup(method: MethodResult) -> float:
    return method.speedup or 0.0


def _runner_up(places: dict[str, MethodResult]) -> list[str]:
    """Where streaming stands, or if it leads, who comes next."""
    leader, *others = places
    other = OURS if OURS in others else next((name for name in others if places[name].kind == "speculative"), None)
    if other is None:
        return []
    spans = [places[name].speedup_interval for name in (leader, other)]
    opening = f"{other} comes" if other == OURS else f"Next is {other}, which comes"
    sentence = f"{opening} to {times(places[other])}"
    if spans[0] is None or spans[1] is None:
        return [f"{sentence}."]
    judged = "overlap" if overlap(spans[0], spans[1]) else "do not overlap"
    return [f"{sentence}; the two intervals {judged}."]


def _identity(result: BenchResult) -> list[str]:
    compared = checked(result)
    promised = [name for name, method in compared.items() if method.lossless]
    wrong, tied = broken(result), ties(result)
    same = [name for name in promised if name not in {**wrong, **tied}]
    lines = []
    for name, rows in wrong.items():
        place = (
            f"; at {times(compared[name])} as fast as {result.baseline} it is not ranked"
            if name in contenders(result)
            else ""
        )
        text = f"its text differs from plain's on {_of(rows, result.rows)}"
        lines.append(f"{name} does not keep its promise: {text}{place}.")
    for name, rows in tied.items():
        lines.append(
            f"{name}: {rows:,} of {count(result.rows, 'text')} part at ties, where plain leads by at most {TIE:g} "
            f"logits and rounding in {result.precision} decides."
        )
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
    wrong = broken(result)
    rest = {name: method for name, method in result.methods.items() if name not in {**found, **wrong}}
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
