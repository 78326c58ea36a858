"""Show what passes cost here, and what every budget of nodes and streams would give."""

from __future__ import annotations

from pathlib import Path

import click

from ssft.cli._adapted import PROMPTS_HELP, Decoding, decoding_options, load_prompts
from ssft.cli._options import data_option, json_option, limit_option, print_json, print_table
from ssft.cli._result import file_option, result_facts
from ssft.errors import ConfigError
from ssft.files import write_text


@click.command()
@click.argument("adapter")
@data_option(help=PROMPTS_HELP)
@limit_option(default=20)
@decoding_options(max_new_tokens=96)
@file_option(help="Draw the result into FILE, an HTML page.")
@json_option()
def command(
    adapter: str, data: Path | None, limit: int, decoding: Decoding, output: Path | None, as_json: bool
) -> None:
    """Show what a pass with ADAPTER costs on this device, and how fast every budget would be on the prompts.

    The cost of a pass is measured, even where it is known, and kept in ssft's cache folder for this device, precision,
    base and shape of adapter. Run the command while nothing else works on the machine. The prompts are decoded once,
    with streams beside every token; that tells exactly how many passes any tree would take. `tree.budget=auto` uses the
    same costs: every pass takes the nodes and the streams that pay, within the adapter's max_nodes and
    max_stream_nodes, which --tree can change.
    """
    from ssft.bench.report.tuning import tuning_page
    from ssft.bench.tuning import tune, tuning_sentence, tuning_tables

    adapted = decoding.open(adapter)
    if adapted.active.streams is None:
        raise ConfigError(
            f"{adapted.active.name!r} has no streams, so there is no budget to choose; give an adapter that "
            "`ssft train` wrote"
        )
    prompts = load_prompts(adapted, adapter, data, limit)
    result = tune(adapted, prompts, decoding.max_new_tokens, decoding.batch_size)
    where = f"batch {decoding.batch_size}, {adapted.precision} on {adapted.device}"
    if output is not None:
        write_text(output, tuning_page(result, f"{adapted.active.name}: {len(prompts)} prompts, {where}"))
    if as_json:
        print_json({**result_facts("tune", adapted, data, len(prompts), decoding), **vars(result)})
        return
    click.echo(f"{adapted.active.name}: {len(prompts)} prompts, {result.tokens:,} tokens, {where}")
    for table in tuning_tables(result):
        click.echo()
        print_table(table)
    click.echo(f"\n{tuning_sentence(result)}")
