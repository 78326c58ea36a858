"""Two results side by side: what became faster or slower, whether texts changed, and what else was not the same."""

from dataclasses import dataclass, field
from typing import Any

from ssft.bench.identity import compare_outputs
from ssft.bench.report.findings import benches, count, overlap
from ssft.bench.result import BenchResult, Difference, SuiteResult
from ssft.errors import ConfigError
from ssft.tables import Column, Estimate, Table

FASTER, SLOWER, UNCLEAR, INCOMPARABLE = "faster", "slower", "no clear change", "not comparable"
ONLY_A, ONLY_B, ABSENT = "only in A", "only in B", "-"

_COMPARABLE = ("baseline", "prompts_sha256", "precision", "batch_size")
"""Where these differ, two speed-ups are not of the same thing."""
_SETTINGS = ("adapter_sha256", "device", "threads", "rows", "max_new_tokens", "rounds", "seed", "tree", "versions")


_SIDE = ("speedup", "speedup_interval", "tokens_per_second", "tokens_per_call", "identical")


@dataclass
class MethodDifference:
    """One method of one task in both results.

    a, b: `_SIDE` of the `MethodResult` and the task's `rows`; None where the method did not run. ratio: speed-up B over
    speed-up A. verdict: `FASTER` or `SLOWER` if the two intervals have no point in common, else, and without intervals,
    `UNCLEAR`; `ONLY_A`, `ONLY_B` where one side is missing, `ABSENT` without speed-ups (a yardstick), `INCOMPARABLE`
    (and no ratio) where they were measured on other prompts, against another baseline, in another precision or batch
    size, which the remarks tell.
    """

    task: str
    method: str
    a: dict[str, Any] | None
    b: dict[str, Any] | None
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
    left, right = benches(a), benches(b)
    if not set(left) & set(right):
        raise ConfigError(
            f"A measured {', '.join(left) or 'no task'}, B {', '.join(right) or 'no task'}: no task in common, so "
            "nothing to compare; give two results of the same adapter"
        )
    found = ResultDifference()
    for task in dict.fromkeys([*left, *right]):
        one, other = left.get(task), right.get(task)
        unlike = [key for key in _COMPARABLE if one and other and getattr(one, key) != getattr(other, key)]
        names = dict.fromkeys(name for side in (one, other) if side is not None for name in side.methods)
        found.methods += [_method(task, name, _side(one, name), _side(other, name), bool(unlike)) for name in names]
        if one is None or other is None:
            found.remarks.append(f"{task}: {ONLY_B if one is None else ONLY_A}")
            continue
        lines = _settings(one, other)
        if unlike:
            verb = "differs" if len(unlike) == 1 else "differ"
            lines.append(f"speed-ups are not comparable, since {' and '.join(unlike)} {verb}")
        if reason := _no_texts(one, other):
            lines.append(f"{reason}, so texts were not compared")
        else:
            found.texts[task] = compare_outputs(one.outputs, other.outputs)
            lines += _first(found.texts[task], len(one.outputs))
        found.remarks += [f"{task}: {line}" for line in lines]
    return found


def difference_table(found: ResultDifference) -> Table:
    """One row per task and method, and the remarks."""
    columns: list[Column | str] = ["task", "method", "verdict"]
    columns += [*(Column(f"speed-up {side}", ".2f", "×") for side in "AB"), Column("B / A", ".2f")]
    for name, form in (("tokens/s", ",.1f"), ("tokens/call", ".2f"), ("same text", "")):
        columns += [Column(f"{name} {side}", form, right=True) for side in "AB"]
    rows = []
    for entry in found.methods:
        a, b = _cells(entry.a), _cells(entry.b)
        rest = [cell for pair in zip(a[1:], b[1:], strict=True) for cell in pair]
        rows.append([entry.task, entry.method, entry.verdict, a[0], b[0], entry.ratio, *rest])
    return Table("", columns, rows, found.remarks, keys=2)


def _side(result: BenchResult | None, name: str) -> dict[str, Any] | None:
    if result is None or name not in result.methods:
        return None
    return {**{key: getattr(result.methods[name], key) for key in _SIDE}, "rows": result.rows}


def _method(task: str, name: str, a: Any, b: Any, unlike: bool) -> MethodDifference:
    ratio = None
    if a is None or b is None:
        verdict = ONLY_B if a is None else ONLY_A
    elif not a["speedup"] or not b["speedup"]:
        verdict = ABSENT
    elif unlike:
        verdict = INCOMPARABLE
    else:
        ratio, one, other = b["speedup"] / a["speedup"], a["speedup_interval"], b["speedup_interval"]
        verdict = UNCLEAR
        if one is not None and other is not None and not overlap(one, other):
            verdict = FASTER if other[0] > one[1] else SLOWER
    return MethodDifference(task, name, a, b, ratio, verdict)


def _cells(side: dict[str, Any] | None) -> list[Any]:
    """Speed-up, tokens per second, tokens per call, rows with plain's text."""
    if side is None:
        return [None] * 4
    speedup = None if side["speedup"] is None else Estimate(side["speedup"], side["speedup_interval"])
    same = None if side["identical"] is None else f"{side['identical']}/{side['rows']}"
    return [speedup, side["tokens_per_second"], side["tokens_per_call"], same]


def _settings(a: BenchResult, b: BenchResult) -> list[str]:
    """Where the two did not measure under the same conditions."""
    lines = []
    for key in (*_SETTINGS, *_COMPARABLE):
        one, other = getattr(a, key), getattr(b, key)
        if isinstance(one, dict):
            keys = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
            lines += [f"{key}.{name} is {one.get(name)} in A, {other.get(name)} in B" for name in keys]
        elif one != other:
            # An older result does not know its adapter's hash.
            lines.append(f"{key} is {one or 'unknown'} in A, {other or 'unknown'} in B")
    return lines + [f"{name} was interrupted" for name, side in (("A", a), ("B", b)) if side.interrupted]


def _no_texts(a: BenchResult, b: BenchResult) -> str:
    """Why plain's texts cannot be compared; empty if they can."""
    missing = [name for name, side in (("A", a), ("B", b)) if not side.outputs]
    if missing:
        return f"{' and '.join(missing)} without texts"
    if a.prompts_sha256 and b.prompts_sha256 and a.prompts_sha256 != b.prompts_sha256:
        return "the prompts are not the same"
    if a.max_new_tokens != b.max_new_tokens:
        return "texts end at different lengths (max_new_tokens)"
    return "" if len(a.outputs) == len(b.outputs) else f"{len(a.outputs)} texts in A, {len(b.outputs)} in B"


def _first(differences: list[Difference], rows: int) -> list[str]:
    if not differences:
        return []
    first = differences[0]
    a, b = ("its end" if token is None else str(token) for token in (first.expected, first.got))
    return [
        f"plain's text differs on {len(differences)} of {count(rows, 'prompt')}; the first is prompt {first.row}, at "
        f"token {first.position} ({a} in A, {b} in B)"
    ]
