"""Train from a recipe: an adapter with speculative streams, or what it is compared with."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from ssft.cli._options import device_option, json_option, print_json, set_threads, table, threads_option


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--output", type=click.Path(path_type=Path), default=None, help="Folder to write, else one in outputs/.")
@click.option("--resume", is_flag=True, help="Go on from the last whole checkpoint of an interrupted run.")
@click.option("--dry-run", is_flag=True, help="Resolve and check everything, show it, train nothing.")
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
    from ssft.runs.describe import describe
    from ssft.runs.prepare import default_output, prepare
    from ssft.runs.train import leave_process_group, train

    set_threads(threads)
    resolved = load_recipe(recipe, list(overrides))
    target = output or default_output(resolved, recipe_path(recipe))
    # The trainer prints its log; stdout is for the facts alone.
    with redirect_stdout(sys.stderr):
        run = prepare(resolved, target, device)
        facts = describe(run) if dry_run else {}
        trained = None if dry_run else train(run, target, resume)
    leave_process_group()
    if dry_run:
        print_json(facts) if as_json else _show(facts)
    if trained is None:
        return
    seconds, metrics = trained.provenance["train_seconds"], trained.provenance["metrics"]
    if as_json:
        print_json({"method": resolved.method, trained.product: str(target), "seconds": seconds, "metrics": metrics})
        return
    click.echo(f"{trained.product} {target}: {trained.size_bytes / 2**20:.1f} MiB, {seconds:.0f} s")
    table([[key, f"{value:.4g}"] for key, value in sorted(metrics.items())], ["metric", "value"])


def _show(facts: dict) -> None:
    click.echo(facts["recipe"]["yaml"])
    shown = "".join(
        click.style(part["token"], fg="green", bold=True) if part["loss"] else part["token"]
        for part in facts["example"]
    )
    click.echo(f"first example, {len(facts['example'])} tokens; with loss: green\n{shown}\n")
    rows = [[f"rows, {k}", f"{v:,}"] for k, v in facts["rows"].items()]
    rows += [[f"parameters, {k}", f"{v:,}"] for k, v in facts["parameters"].items()]
    rows += [[k.replace("_", " "), f"{v:,}"] for k, v in facts["estimate"].items()]
    table(rows, ["", "value"])
