"""Options that several commands share, and the two ways to print facts.

Each option is a function that returns a decorator: `@data_option(required=True)`. Keyword arguments
go to `click.option` and override what is set here. With `--json` only facts go to stdout, as one
object; progress and logs always go to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ssft.base.load import DTYPES, QUANTIZATIONS
from ssft.files import json_text
from ssft.tables import Table, terminal

Decorator = Callable[[Any], Any]
POSITIVE = click.IntRange(min=1)


def _option(*names: str, overrides: dict[str, Any], **defaults: Any) -> Decorator:
    settings = {**defaults, **overrides}
    if settings.get("required") and settings.get("default") is None:
        settings.pop("default", None)  # click takes an explicit None for a value that satisfies `required`
    if settings.get("default") is not None and not settings.get("is_flag"):
        settings.setdefault("show_default", True)
    return click.option(*names, **settings)


def base_option(**overrides: Any) -> Decorator:
    """`--base`, parameter `base: str`."""
    text = "Base model: an alias (see `ssft bases`), a folder or a hub id."
    return _option("--base", metavar="NAME", default="smollm2-135m", help=text, overrides=overrides)


def quantization_option(**overrides: Any) -> Decorator:
    """`--quantization`, parameter `quantization: str`."""
    kind, text = click.Choice(QUANTIZATIONS), "Precision of the base's weights; 4bit is NF4."
    return _option("--quantization", type=kind, default="none", help=text, overrides=overrides)


def dtype_option(**overrides: Any) -> Decorator:
    """`--dtype`, parameter `dtype: str`."""
    text = "Data type to compute in; auto is bfloat16 where the device computes it natively, else float32."
    return _option("--dtype", type=click.Choice(DTYPES), default="auto", help=text, overrides=overrides)


def device_option(**overrides: Any) -> Decorator:
    """`--device`, parameter `device: str | None`."""
    text = "cpu, cuda, cuda:N, mps or auto; without it CUDA if there is one, else the CPU."
    return _option("--device", metavar="DEVICE", default=None, help=text, overrides=overrides)


def data_option(**overrides: Any) -> Decorator:
    """`--data`, parameter `data: Path | None`; the file exists."""
    kind = click.Path(exists=True, dir_okay=False, path_type=Path)
    text = "JSONL or .jsonl.gz file with `prompt` and `completion`, or `messages`, in every row."
    return _option("--data", metavar="FILE", type=kind, default=None, help=text, overrides=overrides)


def limit_option(**overrides: Any) -> Decorator:
    """`--limit`, parameter `limit: int | None`."""
    return _option("--limit", type=POSITIVE, default=None, help="Use only the first N rows.", overrides=overrides)


def max_new_tokens_option(**overrides: Any) -> Decorator:
    """`--max-new-tokens`, parameter `max_new_tokens: int`."""
    text = "Longest completion, in tokens."
    return _option("--max-new-tokens", type=POSITIVE, default=128, help=text, overrides=overrides)


def batch_size_option(**overrides: Any) -> Decorator:
    """`--batch-size`, parameter `batch_size: int`."""
    text = "Prompts decoded at the same time."
    return _option("--batch-size", type=POSITIVE, default=1, help=text, overrides=overrides)


def seed_option(**overrides: Any) -> Decorator:
    """`--seed`, parameter `seed: int`."""
    return _option("--seed", type=click.IntRange(min=0), default=0, help="Random seed.", overrides=overrides)


def threads_option(**overrides: Any) -> Decorator:
    """`--threads`, parameter `threads: int | None`; pass it to `set_threads`."""
    text = "CPU threads for torch; without it torch decides."
    return _option("--threads", type=POSITIVE, default=None, help=text, overrides=overrides)


def json_option(**overrides: Any) -> Decorator:
    """`--json`, parameter `as_json: bool`."""
    text = "Print one JSON object on stdout."
    return _option("--json", "as_json", is_flag=True, default=False, help=text, overrides=overrides)


def model_options(function: Any) -> Any:
    """`--base --quantization --dtype --device --threads` in one decorator (used without brackets)."""
    for option in (threads_option, device_option, dtype_option, quantization_option, base_option):
        function = option()(function)
    return function


def set_threads(threads: int | None) -> int:
    """Hold torch to a number of CPU threads, without one to what it has now; returns the number in force.

    A number that torch took by itself is no promise: its libraries may take fewer for small work until it is set.
    """
    import torch

    torch.set_num_threads(threads or torch.get_num_threads())
    return torch.get_num_threads()


def print_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    click.echo(json_text(value))


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
