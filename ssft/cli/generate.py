"""Generate text for one prompt or for a file of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._adapted import Opening, adapted_options, tree_option
from ssft.cli._options import (
    batch_size_option,
    data_option,
    json_option,
    limit_option,
    max_new_tokens_option,
    print_json,
)

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


@click.command()
@click.argument("adapter", required=False)
@click.option("--prompt", metavar="TEXT", default=None, help="One prompt; its completion goes to stdout.")
@data_option(help="JSONL or .jsonl.gz file with `prompt` or `messages` in every row.")
@limit_option()
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write JSONL, a row per prompt, to FILE instead of stdout; the file appears when all is done.",
)
@click.option(
    "--for-training",
    is_flag=True,
    help="With --data: answer every prompt once and leave out answers that --max-new-tokens cut off, so that the file "
    "can be another run's data.train (streams learn best from the model's own text).",
)
@click.option("--plain", is_flag=True, help="Decode without streams.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End an answer before this text; repeatable.")
@max_new_tokens_option()
@batch_size_option()
@tree_option()
@adapted_options
@json_option(help="With --prompt: print one JSON object on stdout.")
def command(
    adapter: str | None,
    prompt: str | None,
    data: Path | None,
    limit: int | None,
    output: Path | None,
    for_training: bool,
    plain: bool,
    stop: tuple[str, ...],
    max_new_tokens: int,
    batch_size: int,
    tree: tuple[str, ...],
    opening: Opening,
    as_json: bool,
) -> None:
    """Generate greedily with ADAPTER, for one --prompt, whose text is shown while it comes, or for a --data file.

    Without ADAPTER, --base alone decodes the bare base. A file becomes JSONL in its own order, with the keys prompt,
    completion, adapter, tokens, calls, seconds and finish_reason.
    """
    _check_usage(adapter, opening.base, prompt, data, limit, as_json)
    if for_training and data is None:
        raise click.UsageError("--for-training makes a file of training rows out of a --data file; give one")
    from ssft.base.chat import render_prompt
    from ssft.bench.answers import encode_rows
    from ssft.files import check_target, write_text
    from ssft.recipes.data import load_rows

    if output is not None:
        check_target(output)
    rows: list[dict[str, Any]] = [{"prompt": prompt}]
    if data is not None:
        rows = load_rows(data, limit, need_completion=False)
    adapted = opening.open(adapter, tree)
    if for_training:
        rows = _each_prompt_once(rows, data)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": list(stop) or None, "speculate": not plain}
    if prompt is not None and output is None and not as_json:
        answers = [_shown(adapted, encode_rows(adapted, rows)[0], settings)]
    else:
        prompts = encode_rows(adapted, rows)
        answers = adapted.generate(prompts, batch_size=batch_size, progress=True, return_dict=True, **settings)
    records = [
        {
            "prompt": render_prompt(row, adapted.tokenizer),
            "completion": answer["text"],
            "adapter": answer["adapter"],
            "tokens": answer["tokens"],
            "calls": answer["calls"],
            "seconds": round(answer["seconds"], 4),
            "finish_reason": answer["finish_reason"],
        }
        for row, answer in zip(rows, answers, strict=True)
    ]
    cut = [record for record in records if for_training and record["finish_reason"] == "length"]
    if len(cut) == len(records):
        raise click.UsageError(
            f"all {len(records)} answers reached --max-new-tokens {max_new_tokens}, so that none is fit to train on; "
            "give more"
        )
    said = _statistics(records)
    if cut:
        said += f"; {len(cut)} that reached --max-new-tokens {max_new_tokens} are left out"
        records = [record for record in records if record["finish_reason"] != "length"]
    if output is not None:
        write_text(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    if as_json:
        print_json(records[0])
    elif output is None and prompt is None:
        for record in records:
            click.echo(json.dumps(record, ensure_ascii=False))
    click.echo(said, err=True)


def _shown(adapted: MultiAdapterModel, ids: list[int], settings: dict[str, Any]) -> dict[str, Any]:
    """The answer to one prompt, whose text goes to stdout while it is produced."""
    stream = adapted.stream(ids, **settings)
    for piece in stream:
        click.echo(piece, nl=False)
    click.echo()
    return stream.output


def _check_usage(
    adapter: str | None, base: str | None, prompt: str | None, data: Path | None, limit: int | None, as_json: bool
) -> None:
    """Raise `UsageError`, which says what to write instead, for arguments that do not go together."""
    if adapter is None and base is None:
        raise click.UsageError("no model: give an adapter folder, or --base NAME for the bare base")
    if (prompt is None) == (data is None):
        both = "--prompt and --data exclude each other" if prompt is not None else "no prompt"
        raise click.UsageError(f"{both}: give --prompt TEXT for one prompt, or --data FILE for a file of them")
    if prompt is not None and not prompt:
        raise click.UsageError("--prompt is empty; give some text")
    if prompt is not None and limit is not None:
        raise click.UsageError("--limit counts rows of a --data file; leave it out with --prompt")
    if data is not None and as_json:
        raise click.UsageError(
            "--json prints one object for one --prompt; --data gives JSONL already, leave --json out"
        )


def _each_prompt_once(rows: list[dict[str, Any]], data: Path | None) -> list[dict[str, Any]]:
    """The first row of every prompt, in order; raises `UsageError` for chats, whose rendered form is no prompt."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "prompt" not in row:
            raise click.UsageError(
                f"--for-training writes rows of `prompt` and `completion`, and {data} has `messages`, whose template "
                "training would apply again; give rows with `prompt`"
            )
        first.setdefault(row["prompt"], row)
    return list(first.values())


def _statistics(records: list[dict[str, Any]]) -> str:
    """One line for stderr: tokens, calls, tokens per call, and of one prompt its seconds and tokens per second."""
    tokens, calls = (sum(record[key] for record in records) for key in ("tokens", "calls"))
    line = f"{tokens:,} tokens in {calls:,} calls, {tokens / calls:.2f} tokens per call"
    if len(records) > 1:
        return f"{len(records):,} prompts, {line}"
    seconds = records[0]["seconds"]
    speed = f"{seconds:.2f} s, {tokens / max(seconds, 1e-9):.1f} tokens per second"
    return f"{line}, {speed}, finished by {records[0]['finish_reason']}"
