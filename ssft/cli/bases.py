"""List the embedded base models and fetch their weights; check any base for streams."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich import filesize

from ssft.base.embedded import ALIASES, base_path, cache_dir, fetch, is_fetched
from ssft.base.families import TESTED
from ssft.base.load import DTYPES, load_base
from ssft.cli._options import json_option, print_json, table
from ssft.tables import BYTES, Column


def _size(folder: Path) -> int:
    """Bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.group(invoke_without_command=True)
@json_option()
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the embedded base models, or fetch one into the cache folder.

    A base that is not listed is named by its folder or by its hub id.
    """
    if ctx.invoked_subcommand is not None:
        return
    bases: list[dict[str, Any]] = [
        {
            "alias": alias.name,
            "description": alias.description,
            "parameters": alias.parameters,
            "fetched": is_fetched(alias.name),
            "bytes": _size(base_path(alias.name)) if is_fetched(alias.name) else None,
        }
        for alias in ALIASES.values()
    ]
    if as_json:
        print_json({"cache_dir": cache_dir(), "bases": bases})
    else:
        headers = ["alias", "description", "parameters", "fetched", Column("on disk", BYTES)]
        table([list(base.values()) for base in bases], headers)


@command.command("fetch")
@click.argument("name")
@json_option()
def fetch_command(name: str, as_json: bool) -> None:
    """Fetch the base NAME; a second time it only says where it is."""
    start = time.perf_counter()
    folder = fetch(name)
    size, seconds = _size(folder), time.perf_counter() - start
    if as_json:
        print_json({"alias": name, "path": folder, "bytes": size, "seconds": round(seconds, 3)})
    else:
        click.echo(f"{name} is in {folder} ({filesize.decimal(size)})")


@command.command("families")
@json_option()
def families_command(as_json: bool) -> None:
    """List the architectures that ssft is tested with.

    Any other decoder of transformers is checked before its first use: see `ssft bases check`.
    """
    if as_json:
        print_json({"families": [{"model_type": name, "models": models} for name, models in TESTED.items()]})
    else:
        table([[name, models] for name, models in TESTED.items()], ["model type", "models"])


@command.command("check")
@click.argument("model")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Type to compute in.")
@json_option()
@click.pass_context
def check_command(ctx: click.Context, model: str, dtype: str, as_json: bool) -> None:
    """Check on MODEL itself (alias, folder or hub id) that streams can run on it; exits 1 if they cannot."""
    from ssft.runtime.selfcheck import self_check

    report = self_check(load_base(model, dtype=dtype)[0])
    if as_json:
        print_json(report.as_dict())
    else:
        rows = [[check.name, "passed" if check.ok else "failed", check.detail] for check in report.checks]
        table(rows, ["check", "result", "found"])
        click.echo(f"{model} is {'supported' if report.supported else f'not supported: {report.reason}'}")
    if not report.supported:
        ctx.exit(1)
