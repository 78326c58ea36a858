"""From the result files of `ssft verify`, `bench`, `bench tasks` and `eval` to the rows of a card."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError

from ssft.bench.quality import paired_difference
from ssft.bench.reading import read_json, read_result
from ssft.bench.result import BenchResult, QualityResult
from ssft.bundle.format import Bundle
from ssft.card.results import OWN_ROWS, Count, QualityRow, SpeedRow, Text, first_fault
from ssft.errors import ConfigError
from ssft.files import file_identity
from ssft.runs.twin import differences

Rows = tuple[list[SpeedRow], list[QualityRow]]


@dataclass(kw_only=True)
class _Facts:
    """What a card needs of the JSON that `ssft verify` and `ssft eval` write."""

    command: Text
    adapter: Text | None
    adapter_sha256: Text | None
    data: dict[str, Text] | None
    device: Text
    precision: Text
    tree: dict[str, Any]
    rows: Count
    tokens: Count
    calls: Count
    batch_size: Count
    max_new_tokens: Count


@dataclass(kw_only=True)
class _Verify(_Facts):
    kind: Literal["verify"]
    against: Text
    identical: Count


@dataclass(kw_only=True)
class _Eval(_Facts):
    """method, trained_on: of the adapter's training; scores: metric -> [rows], empty in files of the first versions."""

    kind: Literal["eval"]
    method: Text = ""
    trained_on: dict[str, Any] = field(default_factory=dict)
    streaming: bool
    metrics: dict[Text, FiniteFloat]
    intervals: dict[Text, tuple[FiniteFloat, FiniteFloat]]
    scores: dict[Text, list[FiniteFloat]] = field(default_factory=dict)


def describe_data(path: Path | None) -> dict[str, str] | None:
    """A data file's name and hash, as result files keep it; None stands for the adapter's own validation rows."""
    return None if path is None else file_identity(path)


def measured(path: Path, bundle: Bundle) -> Rows:
    """The rows of one result file.

    Raises:
        ConfigError: the file is missing, cut off, of no known kind, or of another adapter.
    """
    result = _read(path) or read_result(path)
    if isinstance(result, BenchResult | _Facts):
        _check_adapter(path, bundle, {result.adapter: result.adapter_sha256})
        return (_of_bench(path, result, bundle), []) if isinstance(result, BenchResult) else _of_facts(result, bundle)
    _check_adapter(path, bundle, {name: task.bench.adapter_sha256 for name, task in result.tasks.items()})
    speed: list[SpeedRow] = []
    quality: list[QualityRow] = []
    for task in result.tasks.values():
        if task.bench.adapter_sha256 == bundle.weights_sha256:
            bench = replace(task.bench, command=task.bench.command or result.command)
            speed += _of_bench(path, bench, bundle)
            if task.quality is not None:
                quality += _of_quality(bench, task.quality, bundle)
    return speed, quality


def with_twin(path: Path, quality: list[QualityRow], bundle: Bundle, own: Sequence[Path] = ()) -> list[QualityRow]:
    """`quality` with the twin's metrics from its `ssft eval` beside those of the adapter, where all else is the same.

    `own`: result files of the adapter; where its `ssft eval` is among them, the paired difference is told, too.

    Raises:
        ConfigError: the file is none of `ssft eval`, measures no plain LoRA that method=lora trained, or there is no
            measurement of the adapter that it compares to.
    """
    facts = _read(path)
    if not isinstance(facts, _Eval):
        raise ConfigError(f"{path}: no result of `ssft eval --facts`; the twin's quality is measured by that")
    if facts.adapter_sha256 == bundle.weights_sha256:
        raise ConfigError(f"{path}: measured with {bundle.path} itself; give the result of its twin")
    if facts.method != "lora" or facts.streaming or facts.adapter is None:
        found = "the bare base" if facts.adapter is None else f"an adapter of method {facts.method[:60]!r}"
        raise ConfigError(
            f"{path}: measured with {found}{', streaming' if facts.streaming else ''}; the twin is the same training "
            "without streams: `ssft train <the adapter's run.yaml> method=lora` makes it, `ssft eval --facts` measures "
            "it"
        )
    twins = {row.metric: row for row in _of_facts(facts, bundle)[1]}

    def same(row: QualityRow) -> bool:
        twin = twins.get(row.metric)
        names = ("source", "data_sha256", "rows", "precision", "device", "max_new_tokens")
        return twin is not None and all(getattr(row, name) == getattr(twin, name) for name in names)

    if not any(same(row) for row in quality):
        raise ConfigError(
            f"{path}: there is no `ssft eval` of {bundle.path} with the same data, rows, metric, --max-new-tokens, "
            "precision and device; measure both alike and give the adapter's result too"
        )
    unlike = ", ".join(differences(bundle, facts.trained_on, facts.adapter_sha256))
    evals = [found for found in map(_read, own) if isinstance(found, _Eval)]
    scores = {(row.key, row.metric): e.scores.get(row.metric) for e in evals for row in _of_facts(e, bundle)[1]}

    def beside(row: QualityRow, twin: QualityRow) -> QualityRow:
        own_scores, twin_scores = scores.get((row.key, row.metric)), facts.scores.get(row.metric)
        paired = paired_difference(own_scores, twin_scores) if own_scores and twin_scores else (None, None)
        return replace(
            row,
            **_estimate("twin", twin.value, (twin.low, twin.high)),
            **_estimate("difference", *paired),
            twin_command=twin.command,
            twin_unlike=unlike,
        )

    return [beside(row, twins[row.metric]) if same(row) else row for row in quality]


# -- rows -------------------------------------------------------------------------------------------------------


def _of_facts(facts: _Facts, bundle: Bundle) -> Rows:
    common = _common(facts, bundle)
    speed = {"method": "streaming", "tokens": facts.tokens, "calls": facts.calls, **common}
    if isinstance(facts, _Verify):
        return [SpeedRow(**speed, source="verify", reference=facts.against, identical=facts.identical)], []
    assert isinstance(facts, _Eval)
    quality = [
        QualityRow(metric=metric, source="eval", value=value, low=low, high=high, **common)
        for metric, value in facts.metrics.items()
        if metric in facts.intervals
        for low, high in [facts.intervals[metric]]
    ]
    return [SpeedRow(**speed, source="eval")] if facts.streaming else [], quality


def _of_bench(path: Path, bench: BenchResult, bundle: Bundle) -> list[SpeedRow]:
    """One row per method."""
    if not bench.command:
        raise ConfigError(f"{path}: does not say which command made it; measure again with this version of ssft")
    common = _common(bench, bundle)
    return [
        SpeedRow(
            **{**common, "tree": common["tree"] if method.accepted else ""},
            **_estimate("speedup", method.speedup, method.speedup_interval),
            source="bench",
            method=name,
            tokens=method.tokens,
            calls=method.calls,
            rounds=bench.rounds,
            baseline=bench.baseline,
            reference="plain",
            identical=method.identical if name != "plain" else None,
        )
        for name, method in bench.methods.items()
    ]


def _of_quality(bench: BenchResult, quality: QualityResult, bundle: Bundle) -> list[QualityRow]:
    """One row per metric."""
    return [
        QualityRow(
            **{**_common(bench, bundle), "rows": quality.rows},
            **_estimate("twin", quality.twin.get(metric), quality.twin_intervals.get(metric)),
            **_estimate("difference", quality.differences.get(metric), quality.difference_intervals.get(metric)),
            source="bench",
            metric=metric,
            value=value,
            low=quality.adapter_intervals[metric][0],
            high=quality.adapter_intervals[metric][1],
            twin_unlike="; ".join(quality.twin_unlike),
        )
        for metric, value in quality.adapter.items()
    ]


def _estimate(name: str, value: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _common(result: BenchResult | _Facts, bundle: Bundle) -> dict[str, Any]:
    """What every row tells of itself; `data` is `OWN_ROWS` if the file is the training's validation file."""
    names = ("command", "device", "precision", "rows", "batch_size", "max_new_tokens")
    data = result.data or {}
    sha256, own = data.get("sha256", ""), bundle.provenance.get("data")
    validation = own.get("validation") if isinstance(own, dict) else None
    is_own = isinstance(validation, dict) and validation.get("sha256", "") == data.get("sha256")
    return {
        **{name: getattr(result, name) for name in names},
        "data": OWN_ROWS if is_own or result.data is None else data.get("name", ""),
        "data_sha256": sha256,
        "tree": f"{result.tree.get('kind')}, {result.tree.get('max_nodes')} nodes",
    }


# -- files ------------------------------------------------------------------------------------------------------


def _check_adapter(path: Path, bundle: Bundle, hashes: dict[Any, Any]) -> None:
    """Raise `ConfigError` unless a measured adapter, name -> `weights_sha256`, is this bundle."""
    if bundle.weights_sha256 in hashes.values():
        return
    found = ", ".join(f"{name} ({str(sha256 or 'no hash')[:12]})" for name, sha256 in hashes.items())
    raise ConfigError(
        f"{path}: measured with {found}, not with {bundle.path} as it is now ({bundle.weights_sha256[:12]}); its "
        "weights or settings are others, measure again"
    )


def _read(path: Path) -> _Verify | _Eval | None:
    """A result of `ssft verify` or `ssft eval`; None for any other, which `read_result` may know."""
    text, value = read_json(path)
    kinds: dict[Any, Any] = {"verify": _Verify, "eval": _Eval}
    if (kind := kinds.get(str(value.get("kind")))) is None:
        return None
    try:
        facts: _Verify | _Eval = TypeAdapter(kind | None, config=ConfigDict(strict=True)).validate_json(text)
        for metric, scores in facts.scores.items() if isinstance(facts, _Eval) else ():
            if len(scores) != facts.rows:
                raise ValueError(f"scores.{metric} has {len(scores)} values for {facts.rows} rows")
    except ValueError as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"{path}: {fault}; the file was changed by hand or written by another version of ssft, measure again"
        ) from error
    return facts
