"""Train a LoRA adapter with speculative streams from a recipe."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from ssft.cli._options import device_option, json_option, print_json, set_threads, table, threads_option


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--output", type=click.Path(path_type=Path), default=None, help="Adapter folder to write.")
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
    """
    from ssft import runs
    from ssft.recipes import load_recipe

    set_threads(threads)
    resolved = load_recipe(recipe, list(overrides))
    target = output or Path("outputs") / resolved.name
    # The trainer prints its log; stdout is for the facts alone.
    with redirect_stdout(sys.stderr):
        run = runs.prepare(resolved, target, device)
        facts = runs.describe(run) if dry_run else {}
        bundle = None if dry_run else runs.train(run, target, resume)
    runs.leave_process_group()
    if dry_run:
        print_json(facts) if as_json else _show(facts)
    if bundle is None:
        return
    metrics = bundle.provenance["metrics"]
    if as_json:
        print_json({"adapter": str(target), "seconds": bundle.provenance["train_seconds"], "metrics": metrics})
        return
    click.echo(f"adapter {target}: {bundle.size_bytes / 2**20:.1f} MiB, {bundle.provenance['train_seconds']:.0f} s")
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
