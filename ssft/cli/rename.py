"""Write rows with made-up names and numbers, the same in prompt and answer, to measure on what nobody has seen."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import click

from ssft.cli._adapted import data_rows
from ssft.cli._options import FILE, data_option, json_option
from ssft.cli._result import deliver, describe_data, file_option, jsonl
from ssft.files import write_text


@click.command()
@data_option(required=True, help="Rows with their completions: JSONL, JSON, CSV or parquet.")
@click.option(
    "--unlike",
    metavar="FILE",
    type=FILE,
    multiple=True,
    help="Rows, as a rule those of the training, none of whose words becomes a name. The option can be repeated.",
)
@click.option("--adapter", metavar="NAME", help="Read the columns that this adapter was trained with.")
@click.option("--seed", type=int, default=0, help="Which names and numbers are made up.")
@file_option(help="Write the rows to FILE as JSONL. Rows without such a name stay as they are.", required=True)
@json_option()
def command(data: Path, unlike: tuple[Path, ...], adapter: str | None, seed: int, output: Path, as_json: bool) -> None:
    """Replace the names and numbers that completions take from their prompts by made-up ones.

    `ssft verify`, `eval` and `bench` then measure on names that nobody has seen: give them FILE as --data. Which words
    are names is counted over the rows of --data. The recipe's key data.augment does the same to training rows.
    """
    from ssft.recipes.augment import prompt_and_completion, rename_share

    rows = data_rows(adapter, data, None)
    others = chain.from_iterable(data_rows(adapter, file, None) for file in unlike)
    renamed, changed = rename_share(rows, 1.0, seed, others)
    write_text(output, jsonl(renamed))
    found: dict[str, Any] = {
        "data": describe_data(data),
        "unlike": [describe_data(file) for file in unlike],
        "seed": seed,
        "rows": len(rows),
        "renamed": len(changed),
        "output": output.name,
    }

    def show() -> None:
        click.echo(f"{len(changed):,} of {len(rows):,} rows have made-up names or numbers; wrote {output}")
        for index in changed[:1]:
            for what, row in (("before", rows[index]), ("after", renamed[index])):
                click.echo(f"row {index + 1}, {what}: {prompt_and_completion(row)[1]}")

    deliver(found, None, as_json, show)
