"""Two results side by side: what became faster or slower, whether texts changed, and what else was not the same."""

from dataclasses import dataclass, field
from typing import Any

from ssft.bench.identity import compare_outputs
from ssft.bench.report.findings import benches, overlap
from ssft.bench.report.tables import COLUMNS, method_cell
from ssft.errors import ConfigError
from ssft.results.schema import BenchResult, Difference, MethodResult, SuiteResult
from ssft.tables import Column, Table, count

FASTER, SLOWER, UNCLEAR, INCOMPARABLE = "faster", "slower", "no clear change", "not comparable"
ONLY_A, ONLY_B, ABSENT = "only in A", "only in B", "-"

_COMPARABLE = ("baseline", "prompts_sha256", "precision", "batch_size", "temperature", "form")
"""Where these differ, two speed-ups are not of the same thing."""
_SETTINGS = ("adapter_sha256", "device", "threads", "rows", "max_new_tokens", "rounds", "seed", "interrupted")
_SHOWN = ("speedup", "tokens_per_second", "tokens_per_call", "identical")


@dataclass
class MethodDifference:
    """One method of one task in both results.

    a, b: None where the method did not run. ratio: speed-up B over speed-up A. verdict: `FASTER` or `SLOWER` if the two
    intervals have no point in common, else, and without intervals, `UNCLEAR`; `ONLY_A`, `ONLY_B` where one side is
    missing, `ABSENT` without speed-ups (a yardstick), `INCOMPARABLE` (and no ratio) where they were measured on other
    prompts, against another baseline, in another precision or batch size, which the remarks tell.
    """

    task: str
    method: str
    a: MethodResult | None
    b: MethodResult | None
    ratio: float | None
    verdict: str


@dataclass
class ResultDifference:
    """What `ssft bench --compare` prints.

    methods: every method of the tasks that both results have. texts: task -> rows where plain's text changed; a task is
    missing here where they cannot be compared, which a remark tells. remarks: what else differs, in words.
    """

    methods: list[MethodDifference] = field(default_factory=list)
    texts: dict[str, list[Difference]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def compare_results(a: BenchResult | SuiteResult, b: BenchResult | SuiteResult) -> ResultDifference:
    """A and B, task by task and method by method; raises `ConfigError` if they have no task in common."""
    left, right = benches(a), benches(b)
    if not set(left) & set(right):
        raise ConfigError(
            f"A measured {', '.join(left) or 'no task'}, B {', '.join(right) or 'no task'}: no task in common, so "
            "nothing to compare; give two results of the same adapter"
        )
    found = ResultDifference()
    for task in dict.fromkeys([*left, *right]):
        if task in left and task in right:
            _compare(found, task, left[task], right[task])
        else:
            found.remarks.append(f"{task}: {ONLY_A if task in left else ONLY_B}")
    return found


def _compare(found: ResultDifference, task: str, one: BenchResult, other: BenchResult) -> None:
    a, b = _conditions(one), _conditions(other)
    lines = [
        f"{key} is {a.get(key, '') or 'unknown'} in A, {b.get(key, '') or 'unknown'} in B"
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]
    unlike = [key for key in _COMPARABLE if a[key] != b[key]]
    for name in dict.fromkeys([*one.methods, *other.methods]):
        pair = one.methods.get(name), other.methods.get(name)
        ratio, verdict = _verdict(*pair)
        if unlike and ratio is not None:
            ratio, verdict = None, INCOMPARABLE
        found.methods.append(MethodDifference(task, name, *pair, ratio, verdict))
    if unlike:
        lines.append(f"speed-ups are not comparable because of {' and '.join(unlike)}")
    same = all(a[key] == b[key] for key in ("prompts_sha256", "max_new_tokens"))
    if not same or not one.outputs or len(one.outputs) != len(other.outputs):
        lines.append("texts were not compared: a result keeps none, or prompts or the length of texts are not the same")
    elif parted := compare_outputs(one.outputs, other.outputs):
        first, total = parted[0], count(len(one.outputs), "prompt")
        tokens = ["its end" if token is None else str(token) for token in (first.expected, first.got)]
        lines.append(
            f"plain's text differs on {len(parted)} of {total}; the first is prompt {first.row}, at token "
            f"{first.position} ({tokens[0]} in A, {tokens[1]} in B)"
        )
        found.texts[task] = parted
    else:
        found.texts[task] = []
    found.remarks += [f"{task}: {line}" for line in lines]


def _conditions(bench: BenchResult) -> dict[str, str]:
    """What a comparison was measured under, as text."""
    facts = {key: getattr(bench, key) for key in (*_SETTINGS, *_COMPARABLE)}
    for name, part in (("tree", bench.tree), ("versions", bench.versions)):
        facts |= {f"{name}.{key}": value for key, value in part.items()}
    return {key: str(value) for key, value in facts.items()}


def _verdict(a: MethodResult | None, b: MethodResult | None) -> tuple[float | None, str]:
    """The ratio of the speed-ups, and what it says."""
    if a is None or b is None:
        return None, ONLY_B if a is None else ONLY_A
    if not a.speedup or not b.speedup:
        return None, ABSENT
    one, other, verdict = a.speedup_interval, b.speedup_interval, UNCLEAR
    if one is not None and other is not None and not overlap(one, other):
        verdict = FASTER if other[0] > one[1] else SLOWER
    return b.speedup / a.speedup, verdict


def difference_table(found: ResultDifference) -> Table:
    """One row per task and method, and the remarks."""
    columns: list[Any] = ["task", "method", "verdict", Column("B / A", ".2f")]
    for key in _SHOWN:
        named = COLUMNS[key]
        columns += [Column(f"{named.name} {side}", named.form, named.unit, named.right) for side in "AB"]
    rows = [
        [entry.task, entry.method, entry.verdict, entry.ratio]
        + [method_cell(side, key) for key in _SHOWN for side in (entry.a, entry.b)]
        for entry in found.methods
    ]
    return Table("", columns, rows, found.remarks, keys=2)
