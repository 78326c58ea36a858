"""Make a chat model or a LoRA faster: rows of its own, streams trained on them, and what they give."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._adapted import Decoding, data_rows, decoding_options
from ssft.cli._options import POSITIVE, data_option, json_option, limit_option, print_json, seed_option
from ssft.cli._result import result_facts
from ssft.cli._sampling import sampling_options

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the rows, the adapter and the results. A call that finds it goes on with it.",
)
@click.option(
    "--adapter", metavar="DIR", help="LoRA over MODEL whose text is kept, as peft writes it: a folder or owner/name."
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    help="Time for all: 30 % to make rows, 60 % to train, 10 % to measure.",
)
@data_option(
    help="File of prompts to answer; every row has `prompt` or `messages`, or the columns that the adapter was trained "
    "with. Without it the model asks itself, which is for chat models.",
)
@limit_option()
@click.option("--questions", type=POSITIVE, default=2000, help="Without --data: most rows with a question of its own.")
@click.option("--turns", type=POSITIVE, default=1, help="How often the user speaks in a chat; the model asks, too.")
@sampling_options("temperature", "top_k", "top_p", "min_p")
@seed_option(help="Seed of the questions, and of answers that are drawn.")
@decoding_options(max_new_tokens=256, batch_size=8, base=False)
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    overrides: tuple[str, ...],
    output: Path,
    adapter: str | None,
    minutes: float,
    data: Path | None,
    limit: int | None,
    questions: int,
    turns: int,
    sampling: dict[str, Any],
    seed: int,
    decoding: Decoding,
    as_json: bool,
) -> None:
    """Train streams for MODEL (an alias, a folder or a hub id), whose text stays what it is to the last token.

    The stages are: distil (the model answers prompts, or questions of its own), train (streams with a LoRA of their
    own, by the recipe chat_lossless, whose keys KEY=VALUE overrides), verify, tune and card. Each says what it does,
    what it found and where its output lies. γ, the layers of the streams, their rank and the steps are chosen from the
    base's depth, a measured step and the time.

    A call that was interrupted goes on when it is typed again; a stage whose output is there, made of the same inputs,
    is not done again. The command exits with 1 if a text differs from that of plain decoding.
    """
    if data is None and limit is not None:
        raise click.UsageError("--limit counts rows of a --data file; leave it out")
    decoding.check(adapter)
    from ssft.accelerate.accelerate import RECIPE, Acceleration
    from ssft.distill.talk import Talk
    from ssft.recipes.recipe import load_recipe

    load_recipe(RECIPE, list(overrides))
    rows = None if data is None else data_rows(adapter, data, limit)

    def facts(adapted: MultiAdapterModel, count: int) -> dict[str, Any]:
        return {**result_facts("", adapted, None, count, decoding), "batch_size": 1}

    work = Acceleration(
        base=model,
        folder=output,
        open=partial(decoding.open, base=model),
        facts=facts,
        say=partial(click.echo, err=as_json),
        how=Talk(turns, decoding.max_new_tokens, seed=seed, answers=sampling, keep_cut_off=True),
        seconds=60 * minutes,
        adapter=adapter,
        rows=rows,
        questions=questions,
        batch_size=decoding.batch_size,
        device=decoding.device,
        overrides=list(overrides),
    )
    try:
        found = work.run()
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; the same command goes on with {output}", err=True)
        raise
    if as_json:
        print_json(work.stages.told)
    else:
        click.echo(f'try it: ssft generate {work.trained} --base {model} --chat --prompt "TEXT"')
    if found is not None and found.differences:
        ctx.exit(1)
