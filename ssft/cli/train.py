"""Train from a recipe: an adapter with speculative streams, or what it is compared with."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from ssft.cli._options import device_option, json_option, print_facts, print_json, set_threads, threads_option


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to write. Without it the run writes a folder of the recipe's name into outputs/.",
)
@click.option("--resume", is_flag=True, help="Go on from the last whole checkpoint of an interrupted run.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Load and check everything, and show it with one example and an estimate of time and memory; train nothing.",
)
@device_option()
@threads_option()
@json_option()
def command(
    recipe: str,
    overrides: tuple[str, ...],
    output: Path | None,
    resume: bool,
    dry_run: bool,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train a LoRA adapter with speculative streams.

    RECIPE is a shipped recipe (see `ssft recipes`) or a YAML file; KEY=VALUE overrides one of its keys (see
    `ssft recipes keys`), for example `training.num_streams=6 data.train=rows.jsonl`.

    The key `method` trains what adapters are compared with instead: `ssft train adapters/sql/run.yaml method=lora`
    gives the same LoRA without streams, in outputs/peers/sql/twin, where `ssft bench --peers outputs/peers` looks.
    """
    from ssft.recipes.recipe import load_recipe, recipe_path
    from ssft.runs.prepare import default_output, describe, prepare
    from ssft.runs.train import leave_process_group, train

    set_threads(threads)
    resolved = load_recipe(recipe, list(overrides))
    target = output or default_output(resolved, recipe_path(recipe))
    # The trainer prints its log; stdout is for the facts alone.
    with redirect_stdout(sys.stderr):
        run = prepare(resolved, target, device)
        if run.args.process_index == 0:
            click.echo("\n".join(run.told))
        facts = describe(run) if dry_run else {}
        trained = None if dry_run else train(run, target, resume)
    leave_process_group()
    if dry_run:
        (print_json if as_json else _show)(facts)
    if trained is None:  # also in all but one of several processes
        return
    seconds, metrics = trained.provenance["train_seconds"], trained.provenance["metrics"]
    if as_json:
        print_json({"method": resolved.method, trained.product: str(target), "seconds": seconds, "metrics": metrics})
        return
    click.echo(f"{trained.product} {target}: {trained.size_bytes / 2**20:.1f} MiB, {seconds:.0f} s")
    print_facts(dict(sorted(metrics.items())))


def _show(facts: dict) -> None:
    """A dry run for people: the recipe, the example with its loss in green, and the numbers."""
    click.echo(facts["recipe"]["yaml"])
    shown = "".join(
        click.style(part["token"], fg="green", bold=True) if part["loss"] else part["token"]
        for part in facts["example"]
    )
    click.echo(f"first example, {len(facts['example'])} tokens; those in green carry the loss\n{shown}\n")
    print_facts({name: facts[name] for name in ("rows", "parameters", "estimate")})
