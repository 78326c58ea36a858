"""Generate text for one prompt or for a file of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._adapted import DATA_HELP, Decoding, data_rows, decoding_options
from ssft.cli._options import POSITIVE, data_option, json_option, limit_option, print_json
from ssft.cli._result import file_option, jsonl
from ssft.cli._sampling import sampling_options
from ssft.cli._words import Words, words_options
from ssft.decoding.sampling import Sampling
from ssft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


@click.command()
@click.argument("adapter", required=False)
@click.option("--prompt", metavar="TEXT", help="One prompt, whose completion goes to stdout.")
@click.option(
    "--row",
    metavar="JSON",
    help='One row of the columns that ADAPTER was trained with, such as \'{"question": "..."}\': the prompt is made of '
    "it by the template in ADAPTER's run.yaml.",
)
@click.option(
    "--chat",
    is_flag=True,
    help="Put every prompt through the chat template of the base, as one message of the user's. Without it a prompt "
    "is raw text.",
)
@data_option(help=DATA_HELP)
@limit_option()
@file_option(help="Write one line of JSON per prompt to FILE instead of stdout. The file appears when all is done.")
@click.option("--plain", is_flag=True, help="Decode without streams; the text is the same.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End an answer before this text. It can be repeated.")
@sampling_options()
@words_options()
@click.option(
    "--num-return-sequences",
    type=POSITIVE,
    default=1,
    help="Number of answers to each prompt, drawn with seeds one after the other; they come as JSONL.",
)
@decoding_options()
@json_option(help="With --prompt: print one JSON object on stdout.")
def command(
    adapter: str | None,
    prompt: str | None,
    row: str | None,
    chat: bool,
    data: Path | None,
    limit: int | None,
    output: Path | None,
    plain: bool,
    stop: tuple[str, ...],
    sampling: dict[str, Any],
    words: Words,
    num_return_sequences: int,
    decoding: Decoding,
    as_json: bool,
) -> None:
    """Generate with ADAPTER, for one --prompt or --row, whose text is shown while it comes, or for a --data file.

    The likeliest token is taken, unless --temperature, --top-k, --top-p, --min-p, --typical-p or --seed asks to draw. A
    seed gives the same text with streams and without them. With --json-schema, --regex or --grammar an answer that
    --max-new-tokens does not cut off has that form, whatever the model says.

    Without ADAPTER, --base alone decodes the bare base. A file becomes JSONL in its own order, with the keys prompt,
    completion, adapter, tokens, calls, seconds and finish_reason; drawn answers have their seed, too, and several to
    one prompt their number from 0 as `answer`.
    """
    several = num_return_sequences > 1
    one = prompt is not None or row is not None
    for wrong, message in (
        (not one and data is None, "no prompt: give --prompt TEXT or --row JSON for one, or --data FILE for many"),
        (prompt is not None and data is not None, "--prompt and --data exclude each other; give one of them"),
        (row is not None and (prompt, data) != (None, None), "--row takes the place of --prompt and --data; give one"),
        (row is not None and adapter is None, "--row is put into form by an adapter's run.yaml; name the adapter"),
        (prompt == "", "--prompt is empty; give some text"),
        (data is None and limit is not None, "--limit counts rows of a --data file; leave it out with one prompt"),
        (data is not None and as_json, "--data gives JSONL already; leave --json out"),
        (several and as_json, "--num-return-sequences gives JSONL already; leave --json out"),
        (
            several and not Sampling(**sampling).sampled,
            f"--num-return-sequences {num_return_sequences}: without sampling all answers of a prompt are the same; "
            "give --temperature or --seed",
        ),
    ):
        if wrong:
            raise click.UsageError(message)
    # All that can be wrong is said before the libraries are imported, which takes seconds, and the base is loaded.
    decoding.check(adapter)
    rows = _rows(adapter, prompt, row, data, limit)
    from ssft.base.chat import render_prompt
    from ssft.bench.answers import encode_rows
    from ssft.files import write_text

    adapted = decoding.open(adapter)
    if chat:
        rows = [_as_chat(row, adapted.tokenizer) for row in rows]
    elif prompt is not None:
        _warn_of_raw_text(adapted)
    prompts = encode_rows(adapted, rows)
    settings: dict[str, Any] = {
        "max_new_tokens": decoding.max_new_tokens,
        "stop": list(stop) or None,
        "speculate": not plain,
    }
    settings |= sampling | words.settings(adapted.tokenizer)
    if one and not several and output is None and not as_json:
        stream = adapted.stream(prompts[0], **settings)
        for piece in stream:
            click.echo(piece, nl=False)
        click.echo()
        answers: list[Any] = [stream.output]
    else:
        how: dict[str, Any] = {
            "batch_size": decoding.batch_size,
            "num_return_sequences": num_return_sequences,
            "progress": True,
        }
        answers = adapted.generate(prompts, return_dict=True, **how, **settings)
    records: list[dict[str, Any]] = [
        {
            "prompt": render_prompt(row, adapted.tokenizer),
            "completion": answer["text"],
            **{key: answer[key] for key in ("adapter", "tokens", "calls")},
            "seconds": round(answer["seconds"], 4),
            **{key: answer[key] for key in ("finish_reason", "seed") if key in answer},
            **({"answer": number} if several else {}),
        }
        for row, found in zip(rows, answers, strict=True)
        for number, answer in enumerate(found if several else [found])
    ]
    if output is not None:
        write_text(output, jsonl(records))
    if as_json:
        print_json(records[0])
    elif output is None and (several or not one):
        click.echo(jsonl(records), nl=False)
    click.echo(_statistics(records), err=True)


def _rows(
    adapter: str | None, prompt: str | None, row: str | None, data: Path | None, limit: int | None
) -> list[dict[str, Any]]:
    """What is to be answered, one dict with `prompt` or `messages` for each."""
    if prompt is not None:
        return [{"prompt": prompt}]
    if data is not None:
        return data_rows(adapter, data, limit)
    assert row is not None
    assert adapter is not None
    try:
        columns = json.loads(row)
    except ValueError as error:
        raise click.UsageError(f'--row is no JSON ({error}); write it as \'{{"column": "text"}}\'') from error
    if not isinstance(columns, dict):
        raise click.UsageError(f'--row is {row[:60]!r}; give one object, \'{{"column": "text"}}\'')
    from ssft.bundle.hub import resolve_adapter
    from ssft.recipes.forms import prompt_of
    from ssft.recipes.run_data import data_of_run

    try:
        return [prompt_of(columns, data_of_run(resolve_adapter(adapter)))]
    except DataError as error:
        raise DataError(f"--row for {adapter}: {error}") from error


def _as_chat(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """A row's prompt as a chat of one message; a chat stays what it is."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("--chat: the tokenizer of the base has no chat template; leave --chat out")
    return row if "messages" in row else {"messages": [{"role": "user", "content": row["prompt"]}]}


def _warn_of_raw_text(adapted: MultiAdapterModel) -> None:
    """Say so if the adapter knows chats only and is given none."""
    bundle = adapted.active.bundle
    trained_on_chats = bundle is not None and bundle.provenance.get("form") == "messages"
    if trained_on_chats and getattr(adapted.tokenizer, "chat_template", None):
        click.echo(
            f"{adapted.active.name} was trained on chats, and --prompt is raw text; --chat makes it one", err=True
        )


def _statistics(records: list[dict[str, Any]]) -> str:
    """One line for stderr: tokens, calls, tokens per call, and of one prompt its seconds and tokens per second."""
    tokens, calls = (sum(record[key] for record in records) for key in ("tokens", "calls"))
    line = f"{tokens:,} tokens in {calls:,} calls, {tokens / calls:.2f} tokens per call"
    if len(records) > 1:
        return f"{len(records):,} {'answers' if 'answer' in records[0] else 'prompts'}, {line}"
    seconds = records[0]["seconds"]
    speed = f"{seconds:.2f} s, {tokens / max(seconds, 1e-9):.1f} tokens per second"
    return f"{line}, {speed}, finished by {records[0]['finish_reason']}"
