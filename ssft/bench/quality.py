"""How good completions are: rows with references, scores by a metric of `metrics/`, means with intervals.

An adapter's answers stand beside those of its twin, the plain LoRA trained with the same recipe. The adapter decodes
with its streams, for that is what its users run; the twin, which has none, decodes plainly. In float32 the streams
leave the adapter's text as it is. In lower precision rounding may decide a tie otherwise with them than without, and a
difference between adapter and twin then holds that too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssft.bench.answers import encode_rows
from ssft.bench.metrics import AUTO, choose_metric, metric_module
from ssft.bench.statistics import mean_interval
from ssft.bundle.format import Bundle
from ssft.errors import ConfigError, DataError
from ssft.results.reading import Kept, read_result
from ssft.results.schema import EvalResult, QualityResult
from ssft.runs.twin import differences

BATCH_SIZE = 8
"""Answers for quality are not timed, so they are decoded in batches."""

Scores = Sequence[Mapping[str, float]]
"""Metric -> value, of each row."""


@dataclass(frozen=True)
class Questions:
    """Rows with their references, and the metric by which answers to them are scored."""

    rows: list[dict[str, Any]]
    references: list[list[str]]
    metric: str


def questions_of(rows: Sequence[dict[str, Any]], limit: int) -> Questions | None:
    """The rows among the first `limit` that have references; None if there are none."""
    chosen = [(number, row) for number, row in enumerate(rows[:limit], start=1) if own_references(row)]
    if not chosen:
        return None
    references = [row_references(row, f"row {number}") for number, row in chosen]
    return Questions([row for _, row in chosen], references, choose_metric(AUTO, references))


def score_texts(
    texts: Sequence[str], references: Sequence[Sequence[str]], metric: str, progress: bool = True
) -> list[dict[str, float]]:
    """The metric's values of every row."""
    hidden = None if progress else True
    bar = tqdm(texts, desc="scoring", unit="row", delay=2, disable=hidden, leave=False)
    return [metric_module(metric).score(text, expected) for text, expected in zip(bar, references, strict=True)]


def score_answers(
    adapted: Any, questions: Questions, max_new_tokens: int, progress: bool = True
) -> list[dict[str, float]]:
    """Scores of an adapter's answers; one with streams decodes with them (see the module)."""
    prompts = encode_rows(adapted, questions.rows)
    results = adapted.complete(prompts, max_new_tokens=max_new_tokens, batch_size=BATCH_SIZE, progress=progress)
    texts = [adapted.decode(result.token_ids) for result in results]
    return score_texts(texts, questions.references, questions.metric, progress)


def quality_result(
    metric: str, adapter: Scores, twin: Scores | None = None, unlike: Sequence[str] = ()
) -> QualityResult:
    """Means with intervals from the scores of the same rows in the same order; without `twin` its fields are empty.

    `unlike`: for `QualityResult.twin_unlike`.
    """
    result = QualityResult(len(adapter), metric, *summarise(adapter))
    if twin is not None:
        result.twin, result.twin_intervals = summarise(twin)
        result.twin_unlike = list(unlike)
        for name in result.adapter:
            columns = ([row[name] for row in rows] for rows in (adapter, twin))
            result.differences[name], result.difference_intervals[name] = paired_difference(*columns)
    return result


def put_twin_beside(path: Path, results: Sequence[Kept], bundle: Bundle) -> None:
    """Put the twin's metrics from its `ssft eval` beside those of the adapter's, where all else is the same.

    Raises:
        ConfigError: the file is none of `ssft eval`, measures no plain LoRA that method=lora trained, or there is no
            measurement of the adapter that it compares to.
    """
    twin = read_result(path)
    if not isinstance(twin, EvalResult):
        raise ConfigError(f"{path}: no result of `ssft eval --facts`; the twin's quality is measured by that")
    if twin.method != "lora" or twin.streaming or twin.adapter is None:
        found = "the bare base" if twin.adapter is None else f"an adapter of method {twin.method[:60]!r}"
        raise ConfigError(
            f"{path}: measured with {found}{', streaming' if twin.streaming else ''}; the twin is the same training "
            "without streams: `ssft train <the adapter's run.yaml> method=lora` makes it, `ssft eval --facts` measures "
            "it"
        )
    alike = [run for run in results if isinstance(run, EvalResult) and _conditions(run) == _conditions(twin)]
    if not alike:
        raise ConfigError(
            f"{path}: there is no `ssft eval` of {bundle.path} with the same data, rows, metric, --max-new-tokens, "
            "precision and device; measure both alike and give the adapter's result too"
        )
    for run in alike:
        run.quality = QualityResult(
            *(run.rows, run.metric, run.metrics, run.intervals, twin.metrics, twin.intervals),
            twin_unlike=differences(bundle, twin.trained_on, twin.adapter_sha256),
            twin_command=twin.command,
        )
        for name in run.metrics:
            pair = _scores(run, name), _scores(twin, name)
            if all(pair):
                run.quality.differences[name], run.quality.difference_intervals[name] = paired_difference(*pair)


def _conditions(run: EvalResult) -> tuple[Any, ...]:
    """Where these are the same, the scores of an adapter and of its twin can stand side by side."""
    data = (run.data or {}).get("sha256")
    return data, sorted(run.metrics), run.rows, run.precision, run.device, run.max_new_tokens


def _scores(run: EvalResult, metric: str) -> list[float]:
    """One score per row; empty where the result does not tell them."""
    scores = run.scores.get(metric, [])
    if scores and len(scores) != run.rows:
        raise ConfigError(f"{run.command}: scores.{metric} has {len(scores)} values for {run.rows} rows")
    return scores


def own_references(row: Mapping[str, Any]) -> list[str]:
    """A row's `references`, or without them its `completion` (the assistant's last message of `messages`); empty where
    the row has neither."""
    if row.get("references"):
        return list(row["references"])
    if "messages" in row:
        last = row["messages"][-1]
        return [last["content"]] if last["role"] == "assistant" else []
    return [row["completion"]] if row.get("completion") is not None else []


def row_references(row: Mapping[str, Any], where: str) -> list[str]:
    """`own_references`; `where` opens the message of the `DataError` for a row without, or with an empty one."""
    references = own_references(row)
    if not references:
        raise DataError(f"{where}: neither `completion` nor `references`, so nothing to compare with; add one of them")
    for number, text in enumerate(row.get("references") or (), start=1):
        if not text.strip():
            raise DataError(f"{where}: reference {number} is empty; fill it, or remove it from `references`")
    return references


def paired_difference(own: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of `own` minus `other` over the same rows, and its 95 % interval: a row that is hard is hard for both."""
    gains = [left - right for left, right in zip(own, other, strict=True)]
    return sum(gains) / len(gains), mean_interval(gains)


def summarise(rows: Scores) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Metric -> its mean over the rows, and metric -> that mean's 95 % interval over the rows."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    metrics = {name: float(values.mean()) for name, values in columns.items()}
    return metrics, {name: mean_interval(values) for name, values in columns.items()}
