"""Check that decoding with streams gives the tokens of plain greedy decoding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ssft.cli._adapted import PROMPTS_HELP, Decoding, decoding_options, load_prompts
from ssft.cli._options import data_option, json_option, limit_option, table
from ssft.cli._result import deliver, file_option, result_facts
from ssft.errors import ConfigError

if TYPE_CHECKING:
    from ssft.bench.methods import DecodingMethod
    from ssft.decoding.request import Generation


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
    from ssft.bench.bits import first_operation
    from ssft.bench.identity import add_margins, compare_outputs
    from ssft.bench.methods import Setting, build_methods
    from ssft.results.schema import VerifyResult
    from ssft.runtime.batching import run_in_batches

    adapted = decoding.open(adapter)
    if adapted.active.streams is None:
        raise ConfigError(
            f"{adapted.active.name!r} has no streams, so there is nothing to verify; give an adapter that `ssft train` "
            "wrote"
        )
    prompts = load_prompts(adapted, adapter, data, limit)
    batch_size = decoding.batch_size
    methods = build_methods([against, "streaming"], Setting(adapted, decoding.max_new_tokens, batch_size))

    def decoded(method: DecodingMethod) -> list[Generation]:
        lengths = [len(prompt) for prompt in prompts]
        return run_in_batches(lengths, batch_size, lambda batch: method.run([prompts[i] for i in batch]), progress=True)

    reference, streamed = map(decoded, methods.values())
    expected, got = ([result.token_ids for result in results] for results in (reference, streamed))
    differences = compare_outputs(expected, got)
    add_margins(adapted, prompts, expected, differences)
    identical, tokens, calls = len(prompts) - len(differences), sum(map(len, got)), sum(r.calls for r in streamed)
    operation = None
    if differences and against == "plain":
        row = differences[0].row
        row_ids, others = prompts[row] + expected[row], [ids for ids in prompts if ids != prompts[row]]
        operation = first_operation(adapted, row_ids, others[0] if others else row_ids[:-1])
    found = VerifyResult(
        **result_facts("verify", adapted, data, len(prompts), decoding),
        identical=identical,
        differences=differences,
        operation=operation,
        against=against,
        tokens=tokens,
        calls=calls,
    )

    def show() -> None:
        click.echo(
            f"{identical} of {len(prompts)} outputs are the same as {against}'s, {tokens:,} tokens in {calls:,} passes "
            f"({tokens / calls:.2f} per pass), {adapted.precision} on {adapted.device}"
        )
        if differences:
            rows = [[d.row, d.position, d.margin, d.expected, d.got] for d in differences]
            table(rows, ["row", "position", "margin", f"{against}'s token", "streams' token"])
        if operation is not None:
            click.echo(f"The first operation that gives a row other bits beside other rows: {operation}")

    deliver(found, output, as_json, show)
    if differences:
        ctx.exit(1)
