"""Compare decoding with streams to plain decoding; cost of a training step, of a pass, of many adapters at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ssft.cli import _options as shared
from ssft.cli._adapted import PROMPTS_HELP, Decoding, decoding_options, load_prompts, prompt_rows
from ssft.cli._bench import (
    MEASURE,
    MeasureByDefault,
    exit_code,
    measuring_options,
    print_comparison,
    rounds_option,
    suite_settings,
)
from ssft.cli._bench_adapters import adapters_command
from ssft.cli._bench_compare import compare_command
from ssft.cli._bench_never_slower import never_slower_command
from ssft.cli._bench_prune import prune_command
from ssft.cli._bench_tasks import tasks_command
from ssft.cli._result import command_line, deliver, describe_data, file_option, result_facts
from ssft.cli._sampling import FORMS, form_of, sampling_options

LIMIT = 20
"""Prompts of a comparison without `--limit` and without Spec-Bench."""


@click.group(cls=MeasureByDefault)
def command() -> None:
    """Compare decoding with an adapter's streams to plain decoding and to other methods, on the same prompts.

    Every round runs every method over all prompts, in random order; a warm-up does not count. Speed-up is against the
    fastest method without drafts: the median over the rounds, with a bootstrap 95 % interval over rounds and prompts.
    Ctrl-C after a finished round reports what is there. An adapter folder named like a command is written ./train.

    The command exits with 1 if a method that promises plain's text breaks the promise in float32, and with 130 after an
    interruption. In lower precision rounding may decide ties, so a different text is told and is no failure.
    """


@command.command(MEASURE, hidden=True)
@click.argument("adapter")
@shared.data_option(help=PROMPTS_HELP)
@click.option(
    "--spec-bench",
    metavar="FILE",
    type=shared.FILE,
    help="Spec-Bench's question.jsonl, instead of --data. It has 13 categories of questions, which are told apart. The "
    "second turn of a question follows the answer that plain decoding gave to the first.",
)
@measuring_options(
    "plain,generate,streaming",
    shared.limit_option(
        help=f"Use only the first N rows. Without it the command takes {LIMIT}. With --spec-bench it takes the first N "
        "questions of each category, and without --limit all of them."
    ),
)
@sampling_options("temperature", *FORMS)
@decoding_options()
@file_option()
@shared.json_option()
@click.pass_context
def measure_command(
    ctx: click.Context,
    adapter: str,
    data: Path | None,
    spec_bench: Path | None,
    peers: Path | None,
    sampling: dict[str, Any],
    decoding: Decoding,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare decoding methods with ADAPTER on the same prompts, as the help of `ssft bench` says."""
    if data is not None and spec_bench is not None:
        raise click.UsageError("--data and --spec-bench: give one of them")
    from ssft.bench.methods import REFERENCE
    from ssft.bench.peers import peers_folder
    from ssft.bench.spec_bench import spec_bench_rows

    form = form_of(sampling)
    if sampling and ctx.get_parameter_source("methods") == ParameterSource.DEFAULT:
        options["methods"] = [REFERENCE, *(["forced", "blind"] if form else []), "streaming"]
    settings = suite_settings(decoding, **options, temperature=sampling.get("temperature"), form=form)
    folder = peers_folder(peers, Path(adapter).resolve().name)
    adapted = decoding.open(adapter)
    ready = settings.ready_methods(adapted, folder)
    if spec_bench is not None:
        rows = spec_bench_rows(spec_bench, adapted, settings.max_new_tokens, settings.limit)
    else:
        rows = prompt_rows(adapter, data, settings.limit or LIMIT)
    result = settings.measure(adapted, rows, ready)
    result.data, result.command = describe_data(spec_bench or data), command_line()
    deliver(result, output, as_json, lambda: print_comparison(result))
    ctx.exit(exit_code(result))


@command.command("train")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--batches", type=shared.POSITIVE, default=4, help="Number of different batches that are timed.")
@rounds_option("How often every batch runs.", default=5)
@shared.seed_option(help="Seed of the order of the trainers, and of the bootstrap.")
@shared.device_option()
@shared.threads_option()
@file_option()
@shared.json_option()
def train_command(
    recipe: str,
    overrides: tuple[str, ...],
    threads: int | None,
    output: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time a training step with streams against TRL's plain LoRA step, on the same batches of RECIPE.

    The time is that of forward and backward pass, without the optimiser's step, which is the same for both. Two copies
    of the base are in memory.
    """
    from ssft.recipes.recipe import load_recipe

    resolved = load_recipe(recipe, list(overrides))
    from ssft.bench.train_step import measure_recipe, step_table

    shared.set_threads(threads)
    result = measure_recipe(resolved, **settings)  # the options that are left, by their names
    deliver(result, output, as_json, lambda: shared.print_table(step_table(result)))


@command.command("profile")
@click.argument("adapter")
@shared.data_option(help=PROMPTS_HELP)
@shared.limit_option(default=4)
@sampling_options(*FORMS)
@decoding_options(max_new_tokens=64)
@file_option()
@shared.json_option()
def profile_command(
    adapter: str,
    data: Path | None,
    limit: int,
    sampling: dict[str, Any],
    decoding: Decoding,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show where a pass with ADAPTER's streams spends its time, beside a plain pass."""
    from torch import get_num_threads

    from ssft.bench.profile import profile, profile_table
    from ssft.bench.suite import form_identity

    adapted = decoding.open(adapter)
    prompts = load_prompts(adapted, adapter, data, limit)
    form = form_of(sampling)
    profiles = profile(adapted, prompts, decoding.max_new_tokens, decoding.batch_size, form=form)
    result = {
        **result_facts("profile", adapted, data, len(prompts), decoding),
        "threads": get_num_threads(),
        "form": form_identity(form),
        **profiles,
    }

    def show() -> None:
        where = f"batch {decoding.batch_size}, {adapted.precision} on {adapted.device}"
        click.echo(f"{adapted.active.name}: {len(prompts)} prompts, {where}")
        shared.print_table(profile_table(profiles))

    deliver(result, output, as_json, show)


for subcommand in (adapters_command, never_slower_command, prune_command, tasks_command, compare_command):
    command.add_command(subcommand)
