"""`ssft bench tasks`: several adapters in one run, with quality, as a page with plots."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from ssft.cli._adapted import Decoding, decoding_options, prompt_rows
from ssft.cli._bench import exit_code, measuring_options, print_comparison, suite_settings
from ssft.cli._options import NOT_NEGATIVE, json_option, limit_option
from ssft.cli._result import command_line, deliver, describe_data
from ssft.cli._shelf import adapter_names, data_files, files_option
from ssft.errors import ConfigError
from ssft.files import check_target

ADAPTERS = Path("adapters")
"""Where adapters are looked for if none is named."""


@click.command("tasks")
@click.argument("adapters", nargs=-1, metavar="[ADAPTER]...")
@files_option()
@click.option(
    "--quality-limit",
    metavar="N",
    type=NOT_NEGATIVE,
    default=40,
    help="Rows per adapter whose answers are compared with their references. Where --peers has the adapter's twin, its "
    "answers to the same rows are compared, too. With 0 nothing is compared.",
)
@measuring_options("all", limit_option(default=10, help="Prompts per adapter that are timed."))
@decoding_options(max_new_tokens=96)
@click.option(
    "--output",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for report.json, report.html and report.png.",
)
@json_option()
@click.pass_context
def tasks_command(
    ctx: click.Context,
    adapters: tuple[str, ...],
    data: tuple[str, ...],
    peers: Path | None,
    decoding: Decoding,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare methods on several tasks and write a report: ADAPTERs, or all under adapters/.

    Per task every method runs on the same prompts as in `ssft bench ADAPTER`; then the adapter's answers are scored,
    beside those of its plain-LoRA twin where --peers has one: exact match for SQL and for labels, ROUGE for other
    text. The report is written anew after every task. Ctrl-C reports what is finished, the finished rounds of the
    running task included, and exits 130.

    The command exits with 1 if a method that promises plain's text breaks the promise in float32. In lower precision
    rounding may decide ties, so a different text is told and is no failure.
    """
    from ssft.bundle.format import LORA_CONFIG

    found = sorted(str(file.parent) for file in ADAPTERS.glob(f"*/{LORA_CONFIG}"))
    if not adapters and not found:
        raise ConfigError(f"no adapter was named, and {ADAPTERS}/ here holds none; name the adapters' folders")
    paths = adapter_names(adapters or tuple(found))
    files = data_files(list(paths), data)
    from ssft.bench.report.page import write_report
    from ssft.bench.suite import Task, run_suite

    settings = suite_settings(decoding, **options)
    check_target(output / "report.json")
    rows = max(settings.limit or 0, settings.quality_limit)
    tasks = []
    for name, path in paths.items():
        folder, load_twin, unlike = _peers(name, path, peers, decoding)
        own = prompt_rows(str(path), files.get(name), rows)
        load = partial(decoding.open, str(path))
        tasks.append(Task(name, own, load, load_twin, folder, describe_data(files.get(name)), unlike))
    result = run_suite(tasks, settings, command_line(), lambda suite: write_report(suite, output))

    def show() -> None:
        print_comparison(result)
        click.echo(f"\nreport: {output / 'report.html'}")

    deliver(result, None, as_json, show)
    ctx.exit(exit_code(result))


def _peers(name: str, path: Path, root: Path | None, decoding: Decoding) -> tuple[Path | None, Any, list[str]]:
    """The adapter's folder of peers, what loads its twin, and in what the twin's training was another; all is read and
    checked before anything is loaded."""
    from ssft.bench.peers import peers_folder, twin_command, twin_folder
    from ssft.bundle.hub import resolve_adapter
    from ssft.bundle.read import read_bundle
    from ssft.runs.provenance import told_by
    from ssft.runs.twin import differences, training_of

    bundle = read_bundle(resolve_adapter(path))
    folder = peers_folder(root, name)
    twin = twin_folder(folder)
    if twin is None:
        if folder is not None:
            click.echo(f"{name}: no twin to compare quality with; make it: {twin_command(path, folder)}", err=True)
        return folder, None, []
    unlike = differences(bundle, training_of(twin, told_by(twin)), read_bundle(twin).weights_sha256)
    if unlike:
        click.echo(
            f"{name}: the twin's training is not known to be the same, so the streams are not all that may change "
            f"quality: {', '.join(unlike)}",
            err=True,
        )
    return folder, partial(decoding.open, str(twin), base=bundle.base_name), unlike
