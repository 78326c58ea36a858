"""Train from a recipe: an adapter with speculative streams, or what it is compared with."""

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import click

from ssft.cli._next_steps import next_steps
from ssft.cli._options import device_option, json_option, print_facts, print_json, set_threads, table, threads_option


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
    "--force",
    is_flag=True,
    help="Replace a finished result in the folder, and delete what was measured of it (results.json).",
)
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
    force: bool,
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
    from ssft.runs.resume import check_may_begin
    from ssft.runs.train import leave_process_group, train
    from ssft.training.progress import no_other_bars

    set_threads(threads)
    resolved = load_recipe(recipe, list(overrides))
    target = output or default_output(resolved, recipe_path(recipe))
    check_may_begin(resolved, target, resume, force)
    # The trainer prints its log; stdout is for the facts alone.
    with redirect_stdout(sys.stderr), no_other_bars():
        run = prepare(resolved, target, device)
        if run.args.process_index == 0:
            click.echo("\n".join(run.told))
        facts = describe(run) if dry_run else {}
        try:
            trained = None if dry_run else train(run, target, resume, force)
        except KeyboardInterrupt:
            given = {"--output": output, "--device": device, "--threads": threads}
            options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
            again = ["ssft", "train", recipe, *overrides, *options, *["--json"] * as_json, "--resume"]
            click.echo(_how_to_go_on(target, again), err=True)
            raise
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
    click.echo("\n".join(["what to type next:", *next_steps(resolved, target)]))


def _how_to_go_on(target: Path, command: list[str]) -> str:
    """What the user of an interrupted run needs to know; `command` goes on with it."""
    from ssft.runs.run import run_folder
    from ssft.training.callbacks import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(run_folder(target))
    if checkpoint is None:
        return "\nNo checkpoint was written yet (training.save_steps says how often one is): the run has to begin anew."
    return f"\nThe last whole checkpoint is {checkpoint}. Go on from it with\n\n  {shlex.join(command)}"


def _show(facts: dict) -> None:
    """A dry run for people: the recipe, the example with its loss in green, and the numbers."""
    click.echo(facts["recipe"]["yaml"])
    shown = "".join(
        click.style(part["token"], fg="green", bold=True) if part["loss"] else part["token"]
        for part in facts["example"]
    )
    click.echo(f"first example, {len(facts['example'])} tokens; those in green carry the loss\n{shown}\n")
    print_facts({name: facts[name] for name in ("rows", "learned", "parameters", "estimate")})
    if facts["advice"]:
        click.echo("\nwhere to begin, as far as was measured (docs/choosing.md)")
        table([[a.setting, a.now, f"{a.advised}: {a.why}"] for a in facts["advice"]], ["setting", "now", "begin with"])
