"""From the result files of `ssft verify`, `bench`, `bench tasks` and `eval` to the rows of a card."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssft.bench.quality import paired_difference
from ssft.bench.reading import EvalFacts, VerifyFacts, read_result
from ssft.bench.result import BenchResult, QualityResult, SuiteResult
from ssft.bundle.format import Bundle
from ssft.card.results import OWN_ROWS, QualityRow, SpeedRow
from ssft.decoding.config import AUTO
from ssft.errors import ConfigError
from ssft.files import file_identity
from ssft.runs.twin import differences

_CONDITIONS = ("source", "metric", "data_sha256", "rows", "precision", "device", "max_new_tokens")
"""Where these are the same, the scores of an adapter and of its twin can stand side by side."""


def describe_data(path: Path | None) -> dict[str, str] | None:
    """A data file's name and hash, as result files keep it; None stands for the adapter's own validation rows."""
    return None if path is None else file_identity(path)


def measured(path: Path, bundle: Bundle) -> tuple[list[SpeedRow], list[QualityRow]]:
    """The rows of one result file.

    Raises:
        ConfigError: the file is missing, cut off, of no known kind, or of another adapter.
    """
    result = read_result(path)
    runs: list[tuple[Any, QualityResult | None]] = [(result, None)]
    suite_command = ""
    if isinstance(result, SuiteResult):
        runs, suite_command = [(task.bench, task.quality) for task in result.tasks.values()], result.command
    if not any(run.adapter_sha256 == bundle.weights_sha256 for run, _ in runs):
        found = (
            ", ".join(f"{run.adapter} ({str(run.adapter_sha256 or 'no hash')[:12]})" for run, _ in runs) or "nothing"
        )
        raise ConfigError(
            f"{path}: measured with {found}, not with {bundle.path} as it is now ({bundle.weights_sha256[:12]}); its "
            "weights or settings are others, measure again"
        )
    speed: list[SpeedRow] = []
    quality: list[QualityRow] = []
    for run, scored in runs:
        if run.adapter_sha256 == bundle.weights_sha256:
            common = _common(run, bundle)
            common["command"] = run.command or suite_command
            if not common["command"]:
                raise ConfigError(f"{path}: does not say which command made it; measure again with this ssft")
            speed += _speed(run, common)
            quality += _quality(run if scored is None else scored, common)
    return speed, quality


def with_twin(path: Path, quality: list[QualityRow], bundle: Bundle, own: Sequence[Path] = ()) -> list[QualityRow]:
    """`quality` with the twin's metrics from its `ssft eval` beside those of the adapter, where all else is the same.

    `own`: result files of the adapter; where its `ssft eval` is among them, the paired difference is told, too.

    Raises:
        ConfigError: the file is none of `ssft eval`, measures no plain LoRA that method=lora trained, or there is no
            measurement of the adapter that it compares to.
    """
    facts = read_result(path)
    if not isinstance(facts, EvalFacts):
        raise ConfigError(f"{path}: no result of `ssft eval --facts`; the twin's quality is measured by that")
    if facts.method != "lora" or facts.streaming or facts.adapter is None:
        found = "the bare base" if facts.adapter is None else f"an adapter of method {facts.method[:60]!r}"
        raise ConfigError(
            f"{path}: measured with {found}{', streaming' if facts.streaming else ''}; the twin is the same training "
            "without streams: `ssft train <the adapter's run.yaml> method=lora` makes it, `ssft eval --facts` measures "
            "it"
        )
    twins = {_conditions(row): row for row in _quality(facts, _common(facts, bundle))}
    if not any(_conditions(row) in twins for row in quality):
        raise ConfigError(
            f"{path}: there is no `ssft eval` of {bundle.path} with the same data, rows, metric, --max-new-tokens, "
            "precision and device; measure both alike and give the adapter's result too"
        )
    unlike = ", ".join(differences(bundle, facts.trained_on, facts.adapter_sha256))
    evals = [found for found in map(read_result, own) if isinstance(found, EvalFacts)]
    scores = {(run.command, metric): _scores(run, metric) for run in evals for metric in run.metrics}

    def beside(row: QualityRow) -> QualityRow:
        if (twin := twins.get(_conditions(row))) is None:
            return row
        pair = scores.get((row.command, row.metric), []), _scores(facts, row.metric)
        return replace(
            row,
            **_estimate("twin", twin.value, (twin.low, twin.high)),
            **_estimate("difference", *(paired_difference(*pair) if all(pair) else (None, None))),
            twin_command=twin.command,
            twin_unlike=unlike,
        )

    return list(map(beside, quality))


def _conditions(row: QualityRow) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in _CONDITIONS)


def _scores(facts: EvalFacts, metric: str) -> list[float]:
    """One score per row; empty where the file does not tell them."""
    scores = facts.scores.get(metric, [])
    if scores and len(scores) != facts.rows:
        raise ConfigError(f"{facts.command}: scores.{metric} has {len(scores)} values for {facts.rows} rows")
    return scores


def _common(run: Any, bundle: Bundle) -> dict[str, Any]:
    """What every row tells of its run; `data` is `OWN_ROWS` if the file is the training's validation file."""
    names = ("command", "device", "precision", "rows", "batch_size", "max_new_tokens")
    sources = {BenchResult: "bench", VerifyFacts: "verify", EvalFacts: "eval"}
    data, told = run.data or {}, bundle.provenance.get("data")
    validation = told.get("validation") if isinstance(told, dict) else None
    is_own = isinstance(validation, dict) and validation.get("sha256", "") == data.get("sha256")
    limit = "up to " if run.tree.get("budget") == AUTO else ""
    return {
        **{name: getattr(run, name) for name in names},
        "source": sources[type(run)],
        "data": OWN_ROWS if is_own or run.data is None else data.get("name", ""),
        "data_sha256": data.get("sha256", ""),
        "tree": f"{run.tree.get('kind')}, {limit}{run.tree.get('max_nodes')} nodes",
    }


def _speed(run: Any, common: dict[str, Any]) -> list[SpeedRow]:
    """One row per method of a comparison; one of streaming for the other commands, none where that did not stream."""
    if isinstance(run, BenchResult):
        return [
            SpeedRow(
                **{**common, "tree": common["tree"] if method.accepted else ""},
                **_estimate("speedup", method.speedup, method.speedup_interval),
                method=name,
                tokens=method.tokens,
                calls=method.calls,
                rounds=run.rounds,
                baseline=run.baseline,
                reference="plain",
                identical=method.identical if name != "plain" else None,
            )
            for name, method in run.methods.items()
        ]
    if isinstance(run, EvalFacts) and not run.streaming:
        return []
    checked: dict[str, Any] = {}
    if isinstance(run, VerifyFacts):
        checked = {"reference": run.against, "identical": run.identical}
    return [SpeedRow(**common, method="streaming", tokens=run.tokens, calls=run.calls, **checked)]


def _quality(found: Any, common: dict[str, Any]) -> list[QualityRow]:
    """One row per metric of `ssft eval` or of a task of `ssft bench tasks`; none of what scores nothing."""
    if isinstance(found, EvalFacts):
        return [
            QualityRow(**common, metric=metric, value=found.metrics[metric], low=low, high=high)
            for metric, (low, high) in found.intervals.items()
            if metric in found.metrics
        ]
    if not isinstance(found, QualityResult):
        return []
    return [
        QualityRow(
            **{**common, "rows": found.rows},
            **_estimate("twin", found.twin.get(metric), found.twin_intervals.get(metric)),
            **_estimate("difference", found.differences.get(metric), found.difference_intervals.get(metric)),
            metric=metric,
            value=value,
            low=found.adapter_intervals[metric][0],
            high=found.adapter_intervals[metric][1],
            twin_unlike="; ".join(found.twin_unlike),
        )
        for metric, value in found.adapter.items()
    ]


def _estimate(name: str, value: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
