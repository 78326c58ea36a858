"""From the result files of `ssft verify`, `bench`, `bench tasks` and `eval` to the rows of a card."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssft.bench.quality import paired_difference
from ssft.bench.reading import read_result
from ssft.bench.result import BenchResult
from ssft.bundle.folder import MAX_JSON, finite
from ssft.bundle.format import Bundle
from ssft.bundle.results import OWN_ROWS, QualityRow, SpeedRow
from ssft.errors import ConfigError
from ssft.files import file_identity
from ssft.runs.twin import differences

Rows = tuple[list[SpeedRow], list[QualityRow]]


def describe_data(path: Path | None) -> dict[str, str] | None:
    """A data file's name and hash, as result files keep it; None stands for the adapter's own validation rows."""
    return None if path is None else file_identity(path)


def measured(path: Path, bundle: Bundle) -> Rows:
    """The rows of one result file.

    Raises:
        ConfigError: the file is missing, cut off, of no known kind, or of another adapter.
    """
    value = _read(path)
    if value.get("kind") in ("verify", "eval"):
        _check_adapter(path, bundle, {value.get("adapter"): value.get("adapter_sha256")})
        make = _of_verify if value["kind"] == "verify" else _of_eval
        return make(_Facts(path, value), bundle)
    result = read_result(path)
    if isinstance(result, BenchResult):
        _check_adapter(path, bundle, {result.adapter: result.adapter_sha256})
        return _of_bench(path, result, bundle), []
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
    value = _read(path)
    if value.get("kind") != "eval":
        raise ConfigError(f"{path}: no result of `ssft eval --facts`; the twin's quality is measured by that")
    if value.get("adapter_sha256") == bundle.weights_sha256:
        raise ConfigError(f"{path}: measured with {bundle.path} itself; give the result of its twin")
    facts = _Facts(path, value)
    method, streaming = facts("method", str), facts("streaming", bool)
    if method != "lora" or streaming or value.get("adapter") is None:
        found = "the bare base" if value.get("adapter") is None else f"an adapter of method {method[:60]!r}"
        raise ConfigError(
            f"{path}: measured with {found}{', streaming' if streaming else ''}; the twin is the same training without "
            "streams: `ssft train <the adapter's run.yaml> method=lora` makes it, `ssft eval --facts` measures it"
        )
    twins = {row.metric: row for row in _of_eval(facts, bundle)[1]}

    def same(row: QualityRow) -> bool:
        twin = twins.get(row.metric)
        names = ("source", "data_sha256", "rows", "precision", "device", "max_new_tokens")
        return twin is not None and all(getattr(row, name) == getattr(twin, name) for name in names)

    if not any(same(row) for row in quality):
        raise ConfigError(
            f"{path}: there is no `ssft eval` of {bundle.path} with the same data, rows, metric, --max-new-tokens, "
            "precision and device; measure both alike and give the adapter's result too"
        )
    trained = facts("trained_on", dict) if "trained_on" in value else {}
    unlike = ", ".join(differences(bundle, trained, value.get("adapter_sha256")))
    scores = {(row.key, row.metric): found for path in own for row, found in _scored(path, bundle)}

    def beside(row: QualityRow, twin: QualityRow) -> QualityRow:
        row = replace(row, twin=twin.value, twin_low=twin.low, twin_high=twin.high)
        row = replace(row, twin_command=twin.command, twin_unlike=unlike)
        own_scores, twin_scores = scores.get((row.key, row.metric)), facts.scores().get(row.metric)
        if own_scores is None or twin_scores is None:
            return replace(row, difference=None, difference_low=None, difference_high=None)
        difference, (low, high) = paired_difference(own_scores, twin_scores)
        return replace(row, difference=difference, difference_low=low, difference_high=high)

    return [beside(row, twins[row.metric]) if same(row) else row for row in quality]


def _scored(path: Path, bundle: Bundle) -> Iterator[tuple[QualityRow, list[float]]]:
    """The rows of a result of `ssft eval` with the scores of its prompts; none of another result."""
    value = _read(path)
    if value.get("kind") == "eval":
        facts = _Facts(path, value)
        scores = facts.scores()
        yield from ((row, scores[row.metric]) for row in _of_eval(facts, bundle)[1] if row.metric in scores)


class _Facts:
    """The JSON of `ssft verify` or `ssft eval`, read key by key."""

    def __init__(self, path: Path, value: dict[str, Any]) -> None:
        self.path, self.value = path, value

    def __call__(self, key: str, *kinds: type) -> Any:
        item = self.value.get(key)
        if type(item) not in kinds:
            raise ConfigError(
                f"{self.path}: {key}={str(item)[:60]!r}, expected {' or '.join(kind.__name__ for kind in kinds)}; the "
                "file was changed by hand or written by another version of ssft, measure again"
            )
        return item

    def numbers(self, key: str, count: int) -> dict[str, tuple[float, ...]]:
        """metric -> its number (count 1) or its numbers."""
        entries = {}
        for metric, item in self(key, dict).items():
            values = item if type(item) is list else [item]
            numbers = tuple(number for number in map(finite, values) if number is not None)
            if not len(numbers) == len(values) == count:
                raise ConfigError(
                    f"{self.path}: {key}.{metric[:60]}={str(item)[:60]}, expected {count} finite numbers; measure again"
                )
            entries[metric] = numbers
        return entries

    def scores(self) -> dict[str, list[float]]:
        """metric -> the scores of all rows; empty for a result of an earlier version."""
        rows = self("rows", int)
        return {key: list(of) for key, of in self.numbers("scores", rows).items()} if "scores" in self.value else {}

    def common(self, bundle: Bundle) -> dict[str, Any]:
        """What every row tells of itself."""
        return {
            "source": self("kind", str),
            "command": self("command", str),
            "device": self("device", str),
            "precision": self("precision", str),
            **_data(self("data", dict, type(None)), bundle),
            "rows": self("rows", int),
            "batch_size": self("batch_size", int),
            "max_new_tokens": self("max_new_tokens", int),
            "tree": _tree(self("tree", dict)),
        }


def _of_verify(facts: _Facts, bundle: Bundle) -> Rows:
    row = SpeedRow(
        method="streaming",
        tokens=facts("tokens", int),
        calls=facts("calls", int),
        reference=facts("against", str),
        identical=facts("identical", int),
        **facts.common(bundle),
    )
    return [row], []


def _of_eval(facts: _Facts, bundle: Bundle) -> Rows:
    intervals = facts.numbers("intervals", 2)
    rows = [
        QualityRow(
            metric=metric,
            value=value,
            low=intervals[metric][0],
            high=intervals[metric][1],
            **facts.common(bundle),
        )
        for metric, (value,) in facts.numbers("metrics", 1).items()
        if metric in intervals
    ]
    if not facts("streaming", bool):
        return [], rows
    tokens, calls = facts("tokens", int), facts("calls", int)
    return [SpeedRow(method="streaming", tokens=tokens, calls=calls, **facts.common(bundle))], rows


def _of_bench(path: Path, bench: Any, bundle: Bundle) -> list[SpeedRow]:
    """One row per method of a `BenchResult`."""
    if not bench.command:
        raise ConfigError(f"{path}: does not say which command made it; measure again with this version of ssft")
    rows = []
    common = _common_of_bench(bench, bundle)
    for name, method in bench.methods.items():
        low, high = method.speedup_interval or (None, None)
        rows.append(
            SpeedRow(
                method=name,
                tokens=method.tokens,
                calls=method.calls,
                rounds=bench.rounds,
                baseline=bench.baseline,
                speedup=method.speedup,
                speedup_low=low,
                speedup_high=high,
                reference="plain",
                identical=method.identical if name != "plain" else None,
                **{**common, "tree": common["tree"] if method.accepted else ""},
            )
        )
    return rows


def _of_quality(bench: Any, quality: Any, bundle: Bundle) -> list[QualityRow]:
    """One row per metric of a `QualityResult`."""
    rows = []
    for metric, value in quality.adapter.items():
        low, high = quality.adapter_intervals[metric]
        twin_low, twin_high = quality.twin_intervals.get(metric, (None, None))
        difference_low, difference_high = quality.difference_intervals.get(metric, (None, None))
        row = QualityRow(
            metric=metric,
            value=value,
            low=low,
            high=high,
            twin=quality.twin.get(metric),
            twin_low=twin_low,
            twin_high=twin_high,
            difference=quality.differences.get(metric),
            difference_low=difference_low,
            difference_high=difference_high,
            twin_unlike="; ".join(quality.twin_unlike),
            **_common_of_bench(bench, bundle),
        )
        rows.append(replace(row, rows=quality.rows))
    return rows


def _common_of_bench(bench: Any, bundle: Bundle) -> dict[str, Any]:
    return {
        "source": "bench",
        "command": bench.command,
        "device": bench.device,
        "precision": bench.precision,
        **_data(bench.data, bundle),
        "rows": bench.rows,
        "batch_size": bench.batch_size,
        "max_new_tokens": bench.max_new_tokens,
        "tree": _tree(bench.tree),
    }


def _data(source: dict[str, Any] | None, bundle: Bundle) -> dict[str, str]:
    """`data` and `data_sha256` of a row: `OWN_ROWS` if the file is the training's validation file, else its name."""
    if source is None:
        return {"data": OWN_ROWS, "data_sha256": ""}
    sha256 = str(source.get("sha256", ""))
    own = bundle.provenance.get("data")
    validation = own.get("validation") if isinstance(own, dict) else None
    if isinstance(validation, dict) and validation.get("sha256", "") == source.get("sha256"):
        return {"data": OWN_ROWS, "data_sha256": sha256}
    return {"data": str(source.get("name", "")), "data_sha256": sha256}


def _tree(tree: dict[str, Any]) -> str:
    return f"{tree.get('kind')}, {tree.get('max_nodes')} nodes"


def _check_adapter(path: Path, bundle: Bundle, hashes: dict[Any, Any]) -> None:
    """Raise `ConfigError` unless a measured adapter, name -> `weights_sha256`, is this bundle."""
    if bundle.weights_sha256 in hashes.values():
        return
    found = ", ".join(f"{name} ({str(sha256 or 'no hash')[:12]})" for name, sha256 in hashes.items())
    raise ConfigError(
        f"{path}: measured with {found}, not with {bundle.path} as it is now ({bundle.weights_sha256[:12]}); its "
        "weights or settings are others, measure again"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > 16 * MAX_JSON:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes are no result file; give one that ssft wrote")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); give a result's JSON file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no whole JSON ({error}); the file is cut off or of another kind") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, expected a result of verify, bench or eval")
    return value
