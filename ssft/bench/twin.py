"""Quality beside the twin: answers of an adapter and of the plain LoRA trained alike, on the same rows.

The adapter decodes with its streams, for that is what its users run; the twin, which has none, decodes plainly. In
float32 the streams leave the adapter's text as it is. In lower precision rounding may decide a tie otherwise with them
than without, and a difference between adapter and twin then holds that too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssft.bench.answers import decode_prompts, encode_rows
from ssft.bench.quality import choose_metric, is_sql, paired_difference, row_references, score_row, summarise
from ssft.bench.result import QualityResult

BATCH_SIZE = 8
"""Answers for quality are not timed, so they are decoded in batches."""


@dataclass(frozen=True)
class Questions:
    """Rows with their references and how answers to them are scored; sql: also in SQL's normal form."""

    rows: list[dict[str, Any]]
    references: list[list[str]]
    metric: str
    sql: bool


def questions_of(rows: Sequence[dict[str, Any]], limit: int) -> Questions | None:
    """The rows among the first `limit` that have references; None if there are none."""
    chosen = [(number, row) for number, row in enumerate(rows[:limit], start=1) if _answered(row)]
    if not chosen:
        return None
    references = [row_references(row, f"row {number}") for number, row in chosen]
    sql = all(is_sql(text) for texts in references for text in texts)
    return Questions([row for _, row in chosen], references, choose_metric("auto", references), sql)


def score_answers(
    adapted: Any, questions: Questions, max_new_tokens: int, progress: bool = True
) -> list[dict[str, float]]:
    """Metric -> percent for every row; an adapter with streams decodes with them (see the module)."""
    prompts = encode_rows(adapted, questions.rows)
    results = decode_prompts(adapted, prompts, True, max_new_tokens, BATCH_SIZE, progress)
    texts = [adapted.decode(result.token_ids) for result in results]
    pairs = zip(texts, questions.references, strict=True)
    return [score_row(text, expected, questions.metric, questions.sql) for text, expected in pairs]


def quality_result(
    metric: str,
    adapter: Sequence[Mapping[str, float]],
    twin: Sequence[Mapping[str, float]] | None = None,
    unlike: Sequence[str] = (),
) -> QualityResult:
    """Means with intervals from the scores of the same rows in the same order; without `twin` its fields are empty.

    `unlike`: for `QualityResult.twin_unlike`.
    """
    means, intervals = summarise(adapter)
    result = QualityResult(len(adapter), metric, means, intervals)
    if twin is not None:
        result.twin, result.twin_intervals = summarise(twin)
        result.twin_unlike = list(unlike)
        for name in means:
            columns = ([row[name] for row in rows] for rows in (adapter, twin))
            result.differences[name], result.difference_intervals[name] = paired_difference(*columns)
    return result


def _answered(row: Mapping[str, Any]) -> bool:
    """Whether a row says what a right answer is."""
    if row.get("references"):
        return True
    return row["messages"][-1]["role"] == "assistant" if "messages" in row else "completion" in row
