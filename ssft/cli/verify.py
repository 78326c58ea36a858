"""Check that decoding with streams gives the tokens of plain greedy decoding."""

from __future__ import annotations

from pathlib import Path

import click

from ssft.cli._adapted import PROMPTS_HELP, Decoding, decoding_options, load_prompts
from ssft.cli._options import data_option, json_option, limit_option, table
from ssft.cli._result import deliver, file_option, result_facts


@click.command()
@click.argument("adapter")
@data_option(help=PROMPTS_HELP)
@limit_option()
@click.option(
    "--against",
    type=click.Choice(["plain", "generate"]),
    default="plain",
    help="Whose tokens are right: those of plain decoding in the same engine, or of transformers' model.generate.",
)
@decoding_options()
@file_option(help="Write the result to FILE as JSON, which `ssft card` reads.")
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    adapter: str,
    data: Path | None,
    limit: int | None,
    against: str,
    decoding: Decoding,
    output: Path | None,
    as_json: bool,
) -> None:
    """Check that decoding with ADAPTER's streams gives the tokens of plain greedy decoding, prompt by prompt.

    In float32 (--dtype float32) every output is the same, and so it is in bfloat16 on a CPU that has instructions for
    it. Elsewhere a difference can come from a tie that rounding decides: its margin, the lead of the plain model's best
    over its second-best logit, is then near 0, and the command says which operation gives a row other bits when other
    rows stand beside it. The command exits with 1 if an output differs.
    """
    from ssft.bench.verify import verify
    from ssft.results.schema import VerifyResult

    adapted = decoding.open(adapter)
    prompts = load_prompts(adapted, adapter, data, limit)
    facts = result_facts("verify", adapted, data, len(prompts), decoding)
    found = VerifyResult(**facts, **verify(adapted, prompts, decoding.max_new_tokens, decoding.batch_size, against))

    def show() -> None:
        click.echo(
            f"{found.identical} of {len(prompts)} outputs are the same as {against}'s, {found.tokens:,} tokens in "
            f"{found.calls:,} passes ({found.tokens / found.calls:.2f} per pass), {adapted.precision} on "
            f"{adapted.device}"
        )
        if found.differences:
            rows = [[d.row, d.position, d.margin, d.expected, d.got] for d in found.differences]
            table(rows, ["row", "position", "margin", f"{against}'s token", "streams' token"])
        if found.operation is not None:
            click.echo(f"The first operation that gives a row other bits beside other rows: {found.operation}")

    deliver(found, output, as_json, show)
    if found.differences:
        ctx.exit(1)
