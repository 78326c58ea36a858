"""`ssft bench never-slower`: whether streaming is ever slower than plain decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssft.cli._adapted import Decoding, data_rows, decoding_options, prompt_rows
from ssft.cli._bench import print_tables, rounds_option, suite_settings
from ssft.cli._options import FILE, json_option, limit_option, seed_option
from ssft.cli._result import command_line, deliver, file_option
from ssft.cli._shelf import adapter_names, data_files, files_option
from ssft.errors import ConfigError


@click.command("never-slower")
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@files_option()
@click.option(
    "--chat",
    metavar="FILE",
    type=FILE,
    required=True,
    help="Chat questions: a file of rows with `messages` or `prompt`.",
)
@limit_option(default=16, help="Prompts of every kind.")
@rounds_option("How often both methods run over the prompts.")
@seed_option(help="Seed of the random ids, of the order of the methods in each round, and of the bootstrap.")
@decoding_options(max_new_tokens=64, batch_size=8)
@file_option()
@json_option()
@click.pass_context
def never_slower_command(
    ctx: click.Context,
    adapters: tuple[str, ...],
    data: tuple[str, ...],
    chat: Path,
    limit: int,
    decoding: Decoding,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure whether streaming is ever slower than plain decoding, on five kinds of input for each ADAPTER.

    These are its own task, the next ADAPTER's task (the first one's for the last), chat questions, its own prompts with
    answers of at most 8 tokens, and random token ids; each with one prompt at a time, and with --batch-size together.
    Both methods run side by side in every round. A ratio is that of the times with the prompts' passes, as in `ssft
    bench`.

    The command exits with 1 if a ratio is below 0.97. Run it while nothing else works on the machine.
    """
    paths = adapter_names(adapters)
    if len(paths) < 2:
        raise ConfigError(f"{adapters[0]} is the only adapter, so there is no other task; name two adapters or more")
    files = data_files(list(paths), data)
    from ssft.bench.never_slower import inputs, measure_paces, paces_sentence, paces_table

    settings = suite_settings(decoding, limit=limit, **options)
    rows = {name: prompt_rows(str(path), files.get(name), limit) for name, path in paths.items()}
    questions, names = data_rows(None, chat, limit), list(paths)
    paces, facts = [], {}
    for name, after in zip(names, [*names[1:], names[0]], strict=True):
        adapted = decoding.open(str(paths[name]))
        facts = {"device": adapted.device, "precision": adapted.precision}
        paces += measure_paces(adapted, inputs(adapted, rows[name], rows[after], questions, settings), settings)
        del adapted  # one model at a time
    result = {"command": command_line(), **facts, "rounds": settings.rounds, "seed": settings.seed, "paces": paces}

    def show() -> None:
        rounds = f"{settings.rounds} round{'s' * (settings.rounds > 1)}"
        heading = f"at most {limit} prompts of every kind, {rounds}, {facts['precision']} on {facts['device']}"
        print_tables(heading, [paces_table(paces)])
        click.echo(f"\n{paces_sentence(paces)}")

    deliver(result, output, as_json, show)
    ctx.exit(int(not all(pace.passed for pace in paces)))
