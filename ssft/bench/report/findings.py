"""What a comparison found, as sentences that follow from its numbers: who is fastest, how surely, with what text."""

from dataclasses import dataclass, field

from ssft.results.schema import BenchResult, MethodResult, SuiteResult
from ssft.tables import count

OURS = "streaming"
"""The method that this project is about; a task's sentences say where it stands, first or not."""
YARDSTICK = "yardstick"
LOW_PRECISION = ("bfloat16", "float16", "4bit")
TIE = 0.5
"""Logits: in low precision, rounding decides where plain's best token leads by no more."""


@dataclass(frozen=True)
class Finding:
    """One task in a few sentences.

    headline: who is fastest and how surely. details: where streaming stands, whose texts are the same. leader: the
    fastest of `ranked`, None where that is empty. clear: whether the leader's interval lies above 1.
    """

    headline: str
    details: list[str] = field(default_factory=list)
    leader: str | None = None
    clear: bool = False


def benches(result: BenchResult | SuiteResult) -> dict[str, BenchResult]:
    """The comparisons in a result, by the name of the task."""
    if isinstance(result, BenchResult):
        return {result.adapter: result}
    return {name: task.bench for name, task in result.tasks.items()}


def contenders(result: BenchResult) -> dict[str, MethodResult]:
    """Methods that are measured against the baseline, fastest first."""
    found = [(n, m) for n, m in result.methods.items() if n != result.baseline and m.speedup is not None]
    return dict(sorted(found, key=lambda item: -(item[1].speedup or 0.0)))


def ranked(result: BenchResult) -> dict[str, MethodResult]:
    """`contenders` without those that broke their promise, whose speed may come from their other text."""
    wrong = broken(result)
    return {name: method for name, method in contenders(result).items() if name not in wrong}


def fastest(result: BenchResult) -> str | None:
    """The first of `ranked` if it is faster than the baseline; nothing stands out where nothing beats that."""
    return next((name for name, method in ranked(result).items() if (method.speedup or 0.0) > 1), None)


def overlap(left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether two intervals have a point in common."""
    return left[0] <= right[1] and right[0] <= left[1]


def broken(result: BenchResult, tied: bool = False) -> dict[str, int]:
    """Method -> prompts whose text is not plain's, for those that promise plain's text and break the promise.

    tied: instead those whose texts all part where rounding in low precision decides, which breaks no promise.
    """
    found = {}
    for name, method in result.methods.items():
        rows = result.rows - method.identical if method.lossless and method.identical is not None else 0
        margins = [difference.margin for difference in method.differences]
        # A difference without a place (or beyond plain's end) cannot be shown to be a tie.
        ties = len(margins) >= rows and all(margin is not None and margin <= TIE for margin in margins)
        if rows and name != "plain" and tied == (ties and result.precision in LOW_PRECISION):
            found[name] = rows
    return found


def times(method: MethodResult) -> str:
    """`1.84 times (95 % interval 1.62 to 2.05)`."""
    span = method.speedup_interval
    why = (
        "too few rounds or prompts for an interval" if span is None else "95 % interval {:.2f} to {:.2f}".format(*span)
    )
    return f"{method.speedup or 0.0:.2f} times ({why})"


def find(result: BenchResult) -> Finding:
    """The sentences for one task."""
    places, details = ranked(result), _texts(result)
    if result.interrupted:
        details.append(f"The run was interrupted; the numbers cover {count(result.rounds, 'whole round')}.")
    if not places:
        if contenders(result):
            return Finding(f"No method beside {result.baseline} keeps plain's text, so none is ranked.", details)
        return Finding(f"Only {result.baseline} ran, so there is nothing to compare it with.", details)
    leader, *others = places
    low, high = places[leader].speedup_interval or (0.0, float("inf"))
    if low > 1:
        headline = f"{leader} is the fastest: {times(places[leader])} as fast as {result.baseline}."
    elif high < 1:
        headline = f"Nothing beats {result.baseline}: the nearest, {leader}, is {times(places[leader])} as fast."
    else:
        headline = f"Nothing is clearly faster than {result.baseline}: {leader} is {times(places[leader])} as fast."
    other = OURS if OURS in others else next((name for name in others if places[name].kind == "speculative"), None)
    if other is not None:
        opening = f"{other} comes" if other == OURS else f"Next is {other}, which comes"
        details.insert(0, f"{opening} to {times(places[other])}.")
    return Finding(headline, details, leader, low > 1)


def _texts(result: BenchResult) -> list[str]:
    """Whose text is plain's."""
    wrong, tied, same, lines = broken(result), broken(result, tied=True), [], []
    for name, method in result.methods.items():
        if name == "plain" or method.identical is None:
            continue
        if name in wrong:
            lines.append(
                f"{name} does not keep its promise: its text differs from plain's on {wrong[name]:,} of "
                f"{count(result.rows, 'prompt')}, so it is not ranked."
            )
        elif name in tied:
            lines.append(
                f"{name}: {tied[name]:,} of {count(result.rows, 'text')} part at ties, where plain leads by at most "
                f"{TIE:g} logits and rounding in {result.precision} decides."
            )
        elif method.lossless:
            same.append(name)
        else:
            part = f"{method.identical:,} of {count(result.rows, 'prompt')}"
            lines.append(f"{name} does not promise plain's text; it gives it on {part}.")
    if same:
        lines.append(f"The same text as plain's, token for token, on every prompt: {', '.join(same)}.")
    return lines
