"""Options that several commands share, and how facts are printed.

Each option is used like `click.option`, whose keywords override what is set here: `@data_option(required=True)`. With
`--json` only facts go to stdout, as one object; progress and logs always go to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from ssft.base.load import DTYPES, QUANTIZATIONS
from ssft.files import json_text
from ssft.tables import Table, terminal

Decorator = Callable[[Any], Any]
MOST = 2**31 - 1
MAX_THREADS = 1024


class Whole(click.IntRange):
    """A whole number from `min` to what libraries can count to, which is too far away for --help."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number > MOST:
            self.fail(f"{number} is too large; at most {MOST} can be counted", param, ctx)
        return number


POSITIVE = Whole(min=1)
NOT_NEGATIVE = Whole(min=0)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _or_of_the_group(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """`--json` counts for a subcommand, too, where it stands before its name."""
    return value or bool(ctx.parent is not None and ctx.parent.params.get("as_json"))


base_option = partial(
    click.option,
    "--base",
    metavar="NAME",
    help="Base model: an alias (see `ssft bases`), a folder or a hub id. Without it the command takes the base that "
    "the adapter was made for.",
)
quantization_option = partial(
    click.option,
    "--quantization",
    type=click.Choice(QUANTIZATIONS),
    default="none",
    help="How the weights of the base are stored; 4bit is NF4.",
)
dtype_option = partial(
    click.option,
    "--dtype",
    type=click.Choice(DTYPES),
    default="auto",
    help="Data type to compute in; auto is bfloat16 where the device computes it natively, else float32.",
)
device_option = partial(
    click.option,
    "--device",
    metavar="DEVICE",
    help="cpu, cuda, cuda:N, mps or auto. Without it the command takes CUDA if there is one, else the CPU.",
)
threads_option = partial(
    click.option,
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="Number of CPU threads. Without it torch decides.",
)
data_option = partial(
    click.option,
    "--data",
    metavar="FILE",
    type=FILE,
    help="JSONL or .jsonl.gz file with `prompt` and `completion`, or `messages`, in every row.",
)
limit_option = partial(click.option, "--limit", type=POSITIVE, help="Use only the first N rows.")
max_new_tokens_option = partial(
    click.option, "--max-new-tokens", type=POSITIVE, default=128, help="Longest completion, in tokens."
)
seed_option = partial(click.option, "--seed", type=NOT_NEGATIVE, default=0, help="Random seed.")
json_option = partial(
    click.option,
    "--json",
    "as_json",
    is_flag=True,
    callback=_or_of_the_group,
    help="Print the facts as one JSON object on stdout.",
)


def together(*options: Decorator) -> Decorator:
    """One decorator for several options, which `--help` shows in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def set_threads(threads: int | None) -> None:
    """Hold torch to a number of CPU threads, without one to what it has now.

    A number that torch took by itself is no promise: its libraries may take fewer for small work until it is set.
    """
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    click.echo(json_text(value))


def print_facts(facts: dict[str, Any]) -> None:
    """Print a dict of facts on stdout as a table of names and values; names of dicts inside it are joined by dots."""
    table(_fact_rows(facts), ["what", "value"])


def _fact_rows(facts: dict[str, Any], prefix: str = "") -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += _fact_rows(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            rows.append([f"{prefix}{name}", ", ".join(map(str, value))])
        else:
            rows.append([f"{prefix}{name}", f"{value:.6g}" if isinstance(value, float) else value])
    return rows


def table(rows: Sequence[Sequence[Any]], headers: Sequence[Any]) -> None:
    """Print rows under headers on stdout; cells and headers are those of `ssft.tables.Table`."""
    print_table(Table("", headers, [list(row) for row in rows]))


def print_table(table: Table) -> None:
    """Print a table on stdout, within the width of the terminal.

    In a pipe there is no width to respect, and a wrapped line would be hard to read by a program, unless the variable
    COLUMNS asks for one.
    """
    from rich.console import Console

    free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(file=sys.stdout, width=240 if free else None, highlight=False)
    console.print(terminal(table, console.width))
