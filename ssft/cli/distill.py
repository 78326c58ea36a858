"""Make training rows from a model itself: its answers to prompts, or to its own questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssft.cli._adapted import Decoding, data_rows, decoding_options
from ssft.cli._options import POSITIVE, data_option, json_option, limit_option, print_json, seed_option
from ssft.cli._sampling import sampling_options
from ssft.errors import DataError


@click.command()
@click.argument("model")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="JSONL file of the rows, written as they come. A call that finds it goes on with it.",
)
@click.option(
    "--adapter", metavar="DIR", help="Adapter over MODEL whose text it is; its streams draft, if it has some."
)
@data_option(
    help="File (JSONL, JSON, CSV, parquet) of prompts to answer; every row has `prompt` or `messages`, or the columns "
    "that the adapter was trained with. Without it the model asks itself.",
)
@limit_option()
@click.option("--questions", type=POSITIVE, help="Without --data: number of rows with a question of the model's own.")
@click.option("--turns", type=POSITIVE, default=1, help="How often the user speaks in a chat; the model asks, too.")
@click.option(
    "--max-question-tokens", type=POSITIVE, default=256, help="Longest question of the model's own, in tokens."
)
@click.option("--question-temperature", type=float, default=1.0, help="Temperature of the model's own questions.")
@click.option(
    "--question-top-p",
    type=float,
    default=0.95,
    help="Draw the questions' tokens from the fewest only whose probabilities sum to p.",
)
@click.option(
    "--keep-cut-off",
    is_flag=True,
    help="Keep answers that --max-new-tokens cuts off. Training takes the end of such a row for the end of the answer, "
    "which is wrong for its last tokens only if streams learn from the model (stream_supervision main or acceptance).",
)
@sampling_options("temperature", "top_k", "top_p", "min_p")
@seed_option(help="Seed of what is drawn in the first row; each row after it takes the next one.")
@decoding_options(max_new_tokens=512, batch_size=8, base=False)
@json_option()
def command(
    model: str,
    output: Path,
    adapter: str | None,
    data: Path | None,
    limit: int | None,
    questions: int | None,
    turns: int,
    max_question_tokens: int,
    question_temperature: float,
    question_top_p: float,
    keep_cut_off: bool,
    sampling: dict[str, Any],
    seed: int,
    decoding: Decoding,
    as_json: bool,
) -> None:
    """Write rows for `ssft train` whose answers are those of MODEL (an alias, a folder or a hub id) itself.

    A draft is right where it is what the model itself says, so its own text is what streams learn best from. Answers
    are the likeliest, unless --temperature, --top-k, --top-p or --min-p asks to draw. Every prompt is answered once; an
    answer that --max-new-tokens cuts off is left out unless --keep-cut-off is given, and what was left out is counted.

    Without --data the model asks itself: the user's turn of its chat template is opened and sampled (Magpie, arXiv
    2406.08464). Questions that are cut off, short, repetitive or nearly asked before are left out.

    A call that was interrupted goes on when it is typed again, and the file is in the end that of an undisturbed call.
    """
    from ssft.decoding.sampling import Sampling

    for wrong, message in (
        (data is None and limit is not None, "--limit counts rows of a --data file; leave it out"),
        (data is None and questions is None, "no prompts: give --data FILE, or --questions N for the model's own"),
        (data is not None and questions is not None, "--data has the questions already; leave --questions out"),
    ):
        if wrong:
            raise click.UsageError(message)
    asking: dict[str, Any] = {"temperature": question_temperature, "top_p": question_top_p}
    Sampling(**asking)
    decoding.check(adapter)
    from ssft.distill.distill import distill, unique_starts
    from ssft.distill.row_file import check_row_file
    from ssft.distill.talk import Talk

    check_row_file(output)
    rows = None if data is None else data_rows(adapter, data, limit)
    starts = None if rows is None else unique_starts(rows, turns)
    how = Talk(turns, decoding.max_new_tokens, max_question_tokens, seed, sampling, asking, keep_cut_off)
    adapted = decoding.open(adapter, model)
    done = distill(adapted, output, how, starts=starts, questions=questions or 0, batch_size=decoding.batch_size)
    repeated = 0 if rows is None or starts is None else len(rows) - len(starts)
    if not done.rows:
        raise DataError(f"{output}: {done.sentence()}; no row is fit to train on: give more --max-new-tokens or others")
    if as_json:
        print_json({"output": str(output), **vars(done), "repeated_prompts": repeated})
        return
    click.echo(f"{output}: {done.sentence()}")
    if repeated:
        click.echo(f"{repeated:,} rows of {data} repeat the prompt of an earlier one, which is answered once")
