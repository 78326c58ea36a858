"""`ssft bench prune`: speed-up by k, with and without pruning."""

from __future__ import annotations

from pathlib import Path

import click

from ssft.cli._adapted import PROMPTS_HELP, Decoding, decoding_options, load_prompts
from ssft.cli._bench import print_tables, rounds_option
from ssft.cli._options import NOT_NEGATIVE, data_option, json_option, limit_option, print_json, seed_option
from ssft.cli._result import command_line, file_option, result_facts
from ssft.files import write_text


def _numbers(_ctx: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    """`"1,2,4"` -> whole numbers from 1, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 2**15 for part in parts):
        raise click.BadParameter(f"{text!r}: write whole numbers from 1, separated by commas, such as 1,2,3,4")
    return list(dict.fromkeys(map(int, parts)))


@click.command("prune")
@click.argument("adapter")
@data_option(help=PROMPTS_HELP)
@limit_option(default=20)
@click.option("--top-k", default="1,2,3,4,6", callback=_numbers, metavar="K,K,...", help="Values of k to compare.")
@click.option(
    "--prune-below",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    help="Probability after its parent, by the prune head, below which a token's branch is dropped; 0 drops none so.",
)
@click.option(
    "--prune-keep", type=NOT_NEGATIVE, default=0, help="Most nodes of a tree that go on, the root included; 0: all."
)
@rounds_option("How often every tree, and plain decoding, runs over the prompts.")
@seed_option(help="Seed of the order within each round.")
@decoding_options(max_new_tokens=64)
@file_option(help="Draw the result into FILE, an HTML page.")
@json_option()
def prune_command(
    adapter: str,
    data: Path | None,
    limit: int,
    top_k: list[int],
    prune_below: float,
    prune_keep: int,
    rounds: int,
    seed: int,
    decoding: Decoding,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure what pruning gives: speed-up over plain decoding by k, with and without it, as the paper's figure does.

    k is how many tokens a tree takes from each stream (`tree.top_k`); all else of the tree is ADAPTER's own, which
    --tree changes: `--tree kind=k_ary --tree max_nodes=64` is the paper's full tree. The adapter needs a prune head, as
    `ssft train RECIPE method=prune_head` trains one.
    """
    from ssft.bench.prune import compare_pruning, prune_sentence, prune_table
    from ssft.bench.report.prune import prune_page

    adapted = decoding.open(adapter)
    prompts = load_prompts(adapted, adapter, data, limit)
    result = compare_pruning(
        adapted,
        prompts,
        top_k,
        prune_below=prune_below,
        prune_keep=prune_keep,
        max_new_tokens=decoding.max_new_tokens,
        batch_size=decoding.batch_size,
        rounds=rounds,
        seed=seed,
    )
    cut = f"prune_below={prune_below:g}, prune_keep={prune_keep}"
    heading = (
        f"{adapted.active.name}: {len(prompts)} prompts, batch {decoding.batch_size}, {cut}, {adapted.precision} on "
        f"{adapted.device}"
    )
    if output is not None:
        write_text(output, prune_page(result, heading))
    if as_json:
        facts = result_facts("prune", adapted, data, len(prompts), decoding)
        print_json({**facts, **vars(result), "command": command_line()})
        return
    print_tables(heading, [prune_table(result)])
    click.echo(f"\n{prune_sentence(result)}")
