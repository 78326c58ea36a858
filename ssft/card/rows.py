"""From the results that lie with an adapter to the rows of the tables in its card and in the documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssft.bundle.format import Bundle
from ssft.card.results import Results
from ssft.decoding.config import AUTO
from ssft.results.reading import Kept, Run, run_of
from ssft.results.schema import (
    BenchResult,
    CategoryResult,
    EvalResult,
    Interval,
    MethodResult,
    QualityResult,
    TaskResult,
    VerifyResult,
)

OWN_ROWS = "validation rows"
"""`data` of a row that was measured on the rows which the training held back."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What every row tells of its run.

    source: the command's name (verify, bench, eval). data: the file's name, `OWN_ROWS`, or "" if it cannot be told.
    tree: in words, "" for a method that drafts none.
    """

    source: str
    command: str
    device: str
    precision: str
    data: str
    rows: int
    batch_size: int
    max_new_tokens: int
    tree: str


@dataclass(frozen=True, kw_only=True)
class SpeedRow(_Row):
    """One method: tokens and calls of one round; speed-up against `baseline`, in times; `identical` of `rows` texts
    equal to `reference`'s. None: not measured. rounds: 0 where nothing was timed. category: of these prompts; "": of
    all."""

    method: str
    category: str = ""
    tokens: int
    calls: int
    rounds: int = 0
    baseline: str = ""
    speedup: float | None = None
    speedup_interval: Interval | None = None
    reference: str = ""
    identical: int | None = None


@dataclass(frozen=True, kw_only=True)
class QualityRow(_Row):
    """One metric, in percent, with its 95 % interval; the twin is the same training without streams.

    difference: adapter minus twin on the same rows, paired. twin_unlike: what else is not the same in their trainings.
    """

    metric: str
    value: float
    interval: Interval | None
    twin: float | None
    twin_interval: Interval | None
    twin_command: str
    twin_unlike: str
    difference: float | None
    difference_interval: Interval | None


@dataclass(frozen=True)
class Rows:
    """The rows of an adapter's tables, in the order of its results.

    categories: one for each category and method with drafts of the comparison with the most prompts, where those have
    several.
    """

    speed: list[SpeedRow]
    quality: list[QualityRow]
    categories: list[SpeedRow]


def rows_of(results: Results, bundle: Bundle) -> Rows:
    """One row of speed per method of a comparison, one for `ssft verify`, and for `ssft eval` where that streamed; one
    row of quality per metric."""
    speed: list[SpeedRow] = []
    quality: list[QualityRow] = []
    runs = [run_of(result) for result in results.results]
    for result, run in zip(results.results, runs, strict=True):
        common = _common(run, bundle)
        speed += _speed(run, common)
        quality += _quality(result, common)
    compared = [run for run in runs if isinstance(run, BenchResult)]
    widest = max(compared, key=lambda run: run.rows, default=None)
    return Rows(speed, quality, [] if widest is None else _categories(widest, _common(widest, bundle)))


def _common(run: Run, bundle: Bundle) -> dict[str, Any]:
    """`data` is `OWN_ROWS` if the file is the training's validation file."""
    names = ("command", "device", "precision", "rows", "batch_size", "max_new_tokens")
    sources = {BenchResult: "bench", VerifyResult: "verify", EvalResult: "eval"}
    data, told = run.data or {}, bundle.provenance.get("data")
    validation = told.get("validation") if isinstance(told, dict) else None
    is_own = isinstance(validation, dict) and validation.get("sha256", "") == data.get("sha256")
    limit = "up to " if run.tree.get("budget") == AUTO else ""
    return {
        **{name: getattr(run, name) for name in names},
        "source": sources[type(run)],
        "data": OWN_ROWS if is_own or run.data is None else data.get("name", ""),
        "tree": f"{run.tree.get('kind')}, {limit}{run.tree.get('max_nodes')} nodes",
    }


def _speed(run: Run, common: dict[str, Any]) -> Iterator[SpeedRow]:
    if isinstance(run, BenchResult):
        for name, method in run.methods.items():
            own = {**common, "tree": common["tree"] if method.accepted else ""}
            yield _compared(name, method, run, own)
    elif isinstance(run, VerifyResult):
        checked: dict[str, Any] = {"reference": run.against, "identical": run.identical}
        yield SpeedRow(**common, method="streaming", tokens=run.tokens, calls=run.calls, **checked)
    elif run.streaming:
        yield SpeedRow(**common, method="streaming", tokens=run.tokens, calls=run.calls)


def _categories(run: BenchResult, common: dict[str, Any]) -> list[SpeedRow]:
    drafting = {name: method for name, method in run.methods.items() if method.kind == "speculative"}
    names = dict.fromkeys(category for method in drafting.values() for category in method.categories)
    return [
        _compared(name, found, run, {**common, "rows": found.rows}, category)
        for category in (names if len(names) > 1 else ())
        for name, method in drafting.items()
        if (found := method.categories.get(category)) is not None
    ]


def _compared(
    name: str, found: MethodResult | CategoryResult, run: BenchResult, common: dict[str, Any], category: str = ""
) -> SpeedRow:
    """The row of one method of a comparison, over all prompts or those of a category."""
    return SpeedRow(
        **common,
        category=category,
        method=name,
        tokens=found.tokens,
        calls=found.calls,
        rounds=run.rounds,
        baseline=found.baseline if isinstance(found, CategoryResult) else run.baseline,
        speedup=found.speedup,
        speedup_interval=found.speedup_interval,
        reference="plain",
        identical=found.identical if name != "plain" else None,
    )


def _quality(result: Kept, common: dict[str, Any]) -> list[QualityRow]:
    quality = result.quality if isinstance(result, TaskResult | EvalResult) else None
    if isinstance(result, EvalResult) and quality is None:
        quality = QualityResult(result.rows, result.metric, result.metrics, result.intervals)
    if quality is None:
        return []
    return [
        QualityRow(
            **{**common, "rows": quality.rows},
            metric=metric,
            value=value,
            interval=quality.adapter_intervals.get(metric),
            twin=quality.twin.get(metric),
            twin_interval=quality.twin_intervals.get(metric),
            twin_command=quality.twin_command,
            twin_unlike=", ".join(quality.twin_unlike),
            difference=quality.differences.get(metric),
            difference_interval=quality.difference_intervals.get(metric),
        )
        for metric, value in quality.adapter.items()
    ]
