"""Two results side by side: what became faster or slower, whether texts changed, and what else was not the same."""

from dataclasses import dataclass, field
from typing import Any

from ssft.bench.findings import count, overlap
from ssft.bench.identity import compare_outputs
from ssft.bench.report import interval, ratio
from ssft.bench.result import BenchResult, Difference, SuiteResult
from ssft.errors import ConfigError

HEADERS = [
    "task",
    "method",
    "speed-up A",
    "95 % interval",
    "speed-up B",
    "95 % interval",
    "B / A",
    "verdict",
    "tokens/s A",
    "tokens/s B",
    "tokens/call A",
    "tokens/call B",
    "same as plain A",
    "same as plain B",
]
FASTER, SLOWER, UNCLEAR, INCOMPARABLE = "faster", "slower", "no clear change", "not comparable"
ONLY_A, ONLY_B, ABSENT = "only in A", "only in B", "-"

_SETTINGS = (
    "adapter_sha256",
    "prompts_sha256",
    "device",
    "precision",
    "threads",
    "rows",
    "batch_size",
    "max_new_tokens",
    "rounds",
    "seed",
    "tree",
    "versions",
    "baseline",
)


_COMPARABLE = ("baseline", "prompts_sha256", "precision", "batch_size")
"""Where these differ, two speed-ups are not of the same thing."""


@dataclass
class Side:
    """One method in one result; the fields mean what they mean in `MethodResult`, rows are the task's."""

    speedup: float | None
    speedup_interval: tuple[float, float] | None
    tokens_per_second: float
    tokens_per_call: float
    identical: int | None
    rows: int


@dataclass
class MethodDifference:
    """One method of one task in both results; a side is None where the method did not run.

    ratio: speed-up B over speed-up A. verdict: `FASTER` or `SLOWER` if the two intervals have no point in common,
    else, and without intervals, `UNCLEAR`; `ONLY_A`, `ONLY_B` where one side is missing, `ABSENT` without speed-ups (a
    yardstick), `INCOMPARABLE` (and no ratio) where they were measured on other prompts, against another baseline, in
    another precision or batch size, which the remarks tell.
    """

    task: str
    method: str
    a: Side | None
    b: Side | None
    ratio: float | None
    verdict: str


@dataclass
class ResultDifference:
    """What `ssft bench --compare` prints.

    methods: every method of every task in either result. texts: task -> rows where plain's text changed; a task is
    missing here where they cannot be compared: a result keeps none, has other prompts or another number of them, or was
    cut at another length. remarks: what else differs, in words.
    """

    methods: list[MethodDifference] = field(default_factory=list)
    texts: dict[str, list[Difference]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def texts_differ(self) -> bool:
        """Whether plain's text changed anywhere."""
        return any(self.texts.values())


def compare_results(a: BenchResult | SuiteResult, b: BenchResult | SuiteResult) -> ResultDifference:
    """A and B, task by task and method by method.

    Raises:
        ConfigError: they have no task in common.
    """
    left, right = _benches(a), _benches(b)
    if not set(left) & set(right):
        raise ConfigError(
            f"A measured {', '.join(left) or 'no task'}, B {', '.join(right) or 'no task'}: no task in common, so "
            "nothing to compare; give two results of the same adapter"
        )
    found = ResultDifference()
    for task in dict.fromkeys([*left, *right]):
        one, other = left.get(task), right.get(task)
        names = dict.fromkeys([*(one.methods if one else ()), *(other.methods if other else ())])
        unlike = _unlike(one, other)
        found.methods += [_method(task, name, _side(one, name), _side(other, name), unlike) for name in names]
        if one is None or other is None:
            found.remarks.append(f"{task}: {ONLY_B if one is None else ONLY_A}")
            continue
        found.remarks += _settings(task, one, other)
        if unlike:
            verb = "differs" if len(unlike) == 1 else "differ"
            found.remarks.append(f"{task}: speed-ups are not comparable, since {' and '.join(unlike)} {verb}")
        found.remarks += _texts(task, one, other, found.texts)
    return found


def table_rows(found: ResultDifference) -> list[list[Any]]:
    """One row per task and method, under `HEADERS`."""
    rows: list[list[Any]] = []
    for entry in found.methods:
        a, b = _cells(entry.a), _cells(entry.b)
        middle = [None if entry.ratio is None else f"{entry.ratio:.2f}", entry.verdict]
        pairs = [cell for pair in zip(a[2:], b[2:], strict=True) for cell in pair]
        rows.append([entry.task, entry.method, *a[:2], *b[:2], *middle, *pairs])
    return rows


def _benches(result: BenchResult | SuiteResult) -> dict[str, BenchResult]:
    if isinstance(result, BenchResult):
        return {result.adapter: result}
    return {name: task.bench for name, task in result.tasks.items()}


def _side(result: BenchResult | None, name: str) -> Side | None:
    method = result.methods.get(name) if result is not None else None
    if result is None or method is None:
        return None
    return Side(
        method.speedup,
        method.speedup_interval,
        method.tokens_per_second,
        method.tokens_per_call,
        method.identical,
        result.rows,
    )


def _unlike(a: BenchResult | None, b: BenchResult | None) -> list[str]:
    """The keys of `_COMPARABLE` that are not the same; none where one side is missing."""
    return [] if a is None or b is None else [key for key in _COMPARABLE if getattr(a, key) != getattr(b, key)]


def _method(task: str, name: str, a: Side | None, b: Side | None, unlike: list[str]) -> MethodDifference:
    if a is None or b is None:
        return MethodDifference(task, name, a, b, None, ONLY_B if a is None else ONLY_A)
    if not a.speedup or not b.speedup:
        return MethodDifference(task, name, a, b, None, ABSENT)
    if unlike:
        return MethodDifference(task, name, a, b, None, INCOMPARABLE)
    one, other = a.speedup_interval, b.speedup_interval
    if one is None or other is None or overlap(one, other):
        verdict = UNCLEAR
    else:
        verdict = FASTER if other[0] > one[1] else SLOWER
    return MethodDifference(task, name, a, b, b.speedup / a.speedup, verdict)


def _cells(side: Side | None) -> list[str | None]:
    """Speed-up, interval, tokens per second, tokens per call, rows with plain's text."""
    if side is None:
        return [None] * 5
    return [
        ratio(side.speedup),
        interval(side.speedup_interval),
        f"{side.tokens_per_second:,.1f}",
        f"{side.tokens_per_call:.2f}",
        None if side.identical is None else f"{side.identical}/{side.rows}",
    ]


def _settings(task: str, a: BenchResult, b: BenchResult) -> list[str]:
    """Where the two did not measure under the same conditions."""
    lines = []
    for key in _SETTINGS:
        one, other = getattr(a, key), getattr(b, key)
        if isinstance(one, dict):
            keys = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
            lines += [f"{task}: {key}.{name} is {one.get(name)} in A, {other.get(name)} in B" for name in keys]
        elif one != other:
            # An older result does not know its adapter's hash.
            lines.append(f"{task}: {key} is {one or 'unknown'} in A, {other or 'unknown'} in B")
    lines += [f"{task}: {name} was interrupted" for name, side in (("A", a), ("B", b)) if side.interrupted]
    return lines


def _texts(task: str, a: BenchResult, b: BenchResult, texts: dict[str, list[Difference]]) -> list[str]:
    """Compares plain's texts, and says what came of it where there is something to say."""
    missing = [name for name, side in (("A", a), ("B", b)) if not side.outputs]
    if missing:
        return [f"{task}: {' and '.join(missing)} without texts, so they were not compared"]
    if a.prompts_sha256 and b.prompts_sha256 and a.prompts_sha256 != b.prompts_sha256:
        return [f"{task}: the prompts are not the same, so texts were not compared"]
    if a.max_new_tokens != b.max_new_tokens:
        return [f"{task}: texts end at different lengths (max_new_tokens), so they were not compared"]
    if len(a.outputs) != len(b.outputs):
        return [f"{task}: {len(a.outputs)} texts in A, {len(b.outputs)} in B, so they were not compared"]
    texts[task] = compare_outputs(a.outputs, b.outputs)
    if not texts[task]:
        return []
    first = texts[task][0]
    return [
        f"{task}: plain's text differs on {len(texts[task])} of {count(len(a.outputs), 'prompt')}; the first is prompt "
        f"{first.row}, at token {first.position} ({_token(first.expected)} in A, {_token(first.got)} in B)"
    ]


def _token(token: int | None) -> str:
    return "its end" if token is None else str(token)
