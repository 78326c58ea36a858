"""Compare decoding with streams to plain decoding; cost of a training step, of a pass, of many adapters at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._adapted import (
    PROMPTS_HELP,
    Opening,
    adapted_options,
    load_prompts,
    prompt_rows,
    tree_option,
)
from ssft.cli._bench import (
    MEASURE,
    MeasureByDefault,
    exit_code,
    measuring_options,
    print_tables,
    rounds_option,
)
from ssft.cli._bench_adapters import adapters_command
from ssft.cli._bench_compare import compare_command
from ssft.cli._bench_tasks import tasks_command
from ssft.cli._command_line import command_line
from ssft.cli._options import (
    POSITIVE,
    batch_size_option,
    data_option,
    device_option,
    json_option,
    limit_option,
    max_new_tokens_option,
    print_table,
    seed_option,
    set_threads,
    threads_option,
)
from ssft.cli._result import deliver, file_option

if TYPE_CHECKING:
    from ssft.bench.suite import SuiteSettings

LIMIT = 20
"""Prompts of a comparison."""


@click.group(cls=MeasureByDefault)
def command() -> None:
    """Compare decoding with an adapter's streams to plain decoding and to other methods, on the same prompts.

    Every round runs every method over all prompts, in random order; a warm-up does not count. Speed-up is against the
    fastest method without drafts: the median over the rounds, with a bootstrap 95 % interval over rounds and prompts.
    Ctrl-C after a finished round reports what is there. An adapter folder named like a command is written ./train.

    Exit 0: done, 1: in float32 a method that promises plain's text breaks the promise, 130: interrupted. In lower
    precision rounding may decide ties, so differences are told and are no failure.
    """


@command.command(MEASURE, hidden=True)
@click.argument("adapter")
@data_option(help=PROMPTS_HELP)
@click.option(
    "--spec-bench",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Spec-Bench's question.jsonl instead of --data; a second turn follows the answer of plain decoding. --limit: "
    "questions of each of its 13 categories.",
)
@measuring_options(
    "plain,generate,streaming",
    limit_option(help="Use only the first N rows, 20 without it; with --spec-bench of each category, all without it."),
    max_new_tokens=128,
)
@tree_option()
@adapted_options
@file_option()
@json_option()
@click.pass_context
def measure_command(
    ctx: click.Context,
    adapter: str,
    data: Path | None,
    spec_bench: Path | None,
    settings: SuiteSettings,
    peers: Path | None,
    tree: tuple[str, ...],
    opening: Opening,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare decoding methods with ADAPTER on the same prompts.

    Exit 0: done, 1: in float32 a method that promises plain's text breaks the promise, 130: interrupted.
    """
    if data is not None and spec_bench is not None:
        raise click.UsageError("--data and --spec-bench: give one of them")
    from ssft.bench.card_rows import describe_data
    from ssft.bench.peers import peers_folder
    from ssft.bench.spec_bench import spec_bench_rows

    folder = peers_folder(peers, Path(adapter).resolve().name)
    adapted = opening.open(adapter, tree)
    ready = settings.ready_methods(adapted, folder)
    if spec_bench is not None:
        rows = spec_bench_rows(spec_bench, adapted, settings.max_new_tokens, settings.limit)
    else:
        rows = prompt_rows(adapter, data, settings.limit or LIMIT)
    result = settings.measure(adapted, rows, ready)
    result.data, result.command = describe_data(spec_bench or data), command_line()
    deliver(result, output, as_json, lambda: print_tables(result))
    ctx.exit(exit_code(result))


@command.command("train")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--batches", type=POSITIVE, default=4, show_default=True, help="Different batches to time.")
@rounds_option("Times that every batch is run.", default=5)
@seed_option(help="Order of the trainers, and the bootstrap.")
@device_option()
@threads_option()
@file_option()
@json_option()
def train_command(
    recipe: str,
    overrides: tuple[str, ...],
    threads: int | None,
    output: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time a training step with streams against TRL's plain LoRA step, on the same batches of RECIPE.

    Forward and backward count, the optimiser's step, which both share, does not. Two copies of the base are in memory.
    """
    from ssft.recipes.recipe import load_recipe

    resolved = load_recipe(recipe, list(overrides))
    from ssft.bench.train_step import measure_recipe, step_table

    set_threads(threads)
    result = measure_recipe(resolved, **settings)  # the options that are left, by their names
    deliver(result, output, as_json, lambda: print_table(step_table(result)))


@command.command("profile")
@click.argument("adapter")
@data_option(help=PROMPTS_HELP)
@limit_option(default=4)
@max_new_tokens_option(default=64)
@batch_size_option()
@tree_option()
@adapted_options
@file_option()
@json_option()
def profile_command(
    adapter: str,
    data: Path | None,
    limit: int,
    max_new_tokens: int,
    batch_size: int,
    tree: tuple[str, ...],
    opening: Opening,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show where a pass with ADAPTER's streams spends its time, beside a plain pass."""
    from torch import get_num_threads

    from ssft.bench.profile import profile, profile_table

    adapted = opening.open(adapter, tree)
    prompts = load_prompts(adapted, adapter, data, limit)
    profiles = profile(adapted, prompts, max_new_tokens, batch_size)
    result = {
        "adapter": adapted.active.name,
        "device": adapted.device,
        "precision": adapted.precision,
        "threads": get_num_threads(),
        "rows": len(prompts),
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "tree": adapted.active.tree.tree_dict(),
        **{name: asdict(value) for name, value in profiles.items()},
    }

    def show() -> None:
        where = f"batch {batch_size}, {adapted.precision} on {adapted.device}"
        click.echo(f"{adapted.active.name}: {len(prompts)} prompts, {where}")
        print_table(profile_table(profiles))

    deliver(result, output, as_json, show)


for subcommand in (adapters_command, tasks_command, compare_command):
    command.add_command(subcommand)
