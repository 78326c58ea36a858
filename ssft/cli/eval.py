"""Measure an adapter's quality: exact match, normalised SQL match, fields of JSON, or ROUGE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssft.bench.metrics import AUTO, metric_module, metric_names
from ssft.cli._adapted import DATA_HELP, Decoding, data_rows, decoding_options
from ssft.cli._options import data_option, json_option, limit_option, table
from ssft.cli._result import deliver, file_option, jsonl, result_facts
from ssft.files import write_text

REFERENCES_HELP = (
    "A row also has its completion, or a list of `references`, which counts instead of the completion where both are "
    "given."
)
METRICS = metric_names()
METRIC_HELP = (
    f"How an answer is compared with its references. {AUTO} chooses by the references: sql where every row has one "
    "reference and all are SQL, json where all references are JSON objects, exact where every row has one reference of "
    "at most three words, else rouge. "
    + " ".join(f"The metric {name} measures this: {metric_module(name).DESCRIPTION}." for name in METRICS)
)
REASONS = {"sql": "SQL, one each", "json": "JSON objects", "exact": "labels, one each", "rouge": "texts"}
"""Why `auto` chose a metric."""


@click.command()
@click.argument("adapter", required=False)
@data_option(required=True, help=f"{DATA_HELP} {REFERENCES_HELP}")
@limit_option()
@click.option("--metric", type=click.Choice([AUTO, *METRICS]), default=AUTO, help=METRIC_HELP)
@file_option(help="Also write one line of JSON per prompt, with its metrics, to FILE. It appears when all is done.")
@file_option("--facts", "Also write what --json prints to FILE, which `ssft card` reads.")
@click.option("--plain", is_flag=True, help="Decode without streams; the text is the same.")
@decoding_options()
@json_option()
def command(
    adapter: str | None,
    data: Path,
    limit: int | None,
    metric: str,
    output: Path | None,
    facts: Path | None,
    plain: bool,
    decoding: Decoding,
    as_json: bool,
) -> None:
    """Decode greedily with ADAPTER and compare the texts with the references of --data, in percent.

    Without ADAPTER, --base alone measures the bare base. Intervals are 95 % bootstrap intervals over the rows. The
    package rouge-score computes ROUGE, with its stemmer.
    """
    from ssft.base.chat import render_prompt
    from ssft.bench.answers import encode_rows
    from ssft.bench.metrics import choose_metric
    from ssft.bench.quality import row_references, score_texts, summarise
    from ssft.results.schema import EvalResult

    rows = data_rows(adapter, data, limit)
    references = [row_references(row, f"{data}, row {number}") for number, row in enumerate(rows, start=1)]
    chosen = choose_metric(metric, references)
    adapted = decoding.open(adapter)
    results = adapted.complete(
        encode_rows(adapted, rows),
        max_new_tokens=decoding.max_new_tokens,
        speculate=not plain,
        batch_size=decoding.batch_size,
        progress=True,
    )
    texts = [adapted.decode(result.token_ids) for result in results]
    scores = score_texts(texts, references, chosen)
    records: list[dict[str, Any]] = [
        {
            "prompt": render_prompt(row, adapted.tokenizer),
            "completion": text,
            "references": expected,
            "metrics": {name: round(value, 4) for name, value in score.items()},
            "tokens": len(result.token_ids),
            "calls": result.calls,
            "finish_reason": result.finish_reason,
        }
        for row, expected, result, text, score in zip(rows, references, results, texts, scores, strict=True)
    ]
    if output is not None:
        write_text(output, jsonl(records))
    metrics, intervals = summarise(scores)
    tokens, calls = (sum(record[key] for record in records) for key in ("tokens", "calls"))
    cut_off = sum(record["finish_reason"] == "length" for record in records)
    whose = result_facts("eval", adapted, data, len(rows), decoding)
    found = EvalResult(
        **{**whose, "adapter": adapted.active.name if adapter is not None else None},
        text_sha256="" if adapted.active.bundle is None else adapted.active.bundle.text_sha256,
        metric=chosen,
        metrics=metrics,
        intervals=intervals,
        scores={name: [record["metrics"][name] for record in records] for name in metrics},
        tokens=tokens,
        calls=calls,
        tokens_per_call=tokens / calls,
        cut_off=cut_off,
        streaming=not plain and adapted.active.streams is not None,
    )

    def show() -> None:
        why = f" (auto: the references are {REASONS[chosen]})" if metric == AUTO else ""
        where = f"{adapted.precision} on {adapted.device}"
        click.echo(f"{adapted.active.name}: {len(rows):,} rows, metric {chosen}{why}, {where}")
        lines = [[name, f"{value:.2f}", "{:.2f} - {:.2f}".format(*intervals[name])] for name, value in metrics.items()]
        table(lines, ["metric", "%", "95 % interval"])
        click.echo(f"{tokens:,} tokens in {calls:,} calls, {tokens / calls:.2f} tokens per call")
        if cut_off:
            click.echo(
                f"{cut_off:,} of {len(rows):,} completions were cut off at their longest; raise --max-new-tokens "
                f"({decoding.max_new_tokens}) if the task needs more"
            )

    deliver(found, facts, as_json, show)
