"""Show what adapter folders hold, or what they take in memory over their base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ssft.cli._options import (
    POSITIVE,
    base_option,
    device_option,
    dtype_option,
    json_option,
    print_json,
    quantization_option,
    table,
)
from ssft.cli._shelf import adapter_names, shared_base


def collect(adapter: str) -> dict[str, Any]:
    """Everything `ssft inspect` prints, as plain values; raises `BundleError` for a damaged folder."""
    from ssft.bundle.read import read_bundle
    from ssft.bundle.shipped import local_adapter

    bundle = read_bundle(local_adapter(adapter) or adapter)
    lora, *own_lora = bundle.loras
    targets = lora.config.get("target_modules")
    streams = None if bundle.stream_config is None else bundle.stream_config.stream_dict()
    return {
        "adapter": Path(bundle.path).resolve().name,
        "path": str(bundle.path),
        "format_version": bundle.format_version,
        "base": dict(bundle.base),
        "lora": {
            "r": lora.config.get("r"),
            "lora_alpha": lora.config.get("lora_alpha"),
            "target_modules": sorted(targets) if isinstance(targets, list) else targets,
            "parameters": lora.parameters,
        },
        "stream_lora": {"r": own_lora[0].config.get("r"), "parameters": own_lora[0].parameters} if own_lora else None,
        "streams": streams,
        "tree": None if streams is None else bundle.tree.tree_dict(),
        "extra_parameters": bundle.extra_parameters,
        "size_bytes": bundle.size_bytes,
        "files": {path.name: path.stat().st_size for path in sorted(Path(bundle.path).iterdir()) if path.is_file()},
        "provenance": headline(bundle.provenance),
    }


def headline(provenance: dict[str, Any]) -> dict[str, Any]:
    """The provenance without its long parts, such as the loss history."""
    return {key: value for key, value in provenance.items() if not isinstance(value, list)}


def _lines(prefix: str, value: Any) -> list[list[str]]:
    """`[name, text]` rows of a nested dict; names are joined by dots."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _lines(f"{prefix}.{key}" if prefix else key, item)]
    if isinstance(value, list):
        return [[prefix, ", ".join(map(str, value))]]
    if isinstance(value, int) and not isinstance(value, bool):
        return [[prefix, f"{value:,}"]]
    return [[prefix, f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)]]


def collect_memory(
    paths: dict[str, Path], base: str | None, *, max_adapter_bytes: int | None = None, **settings: Any
) -> dict[str, Any]:
    """The memory account of all adapters over one base; `settings` go to `MultiAdapterModel.from_pretrained`.

    Beside what `MultiAdapterModel.memory` says: `total`, the base with the adapters on its device, and the `ratio` of
    each adapter's bytes to those of its files.
    """
    name = shared_base(paths, base)
    from ssft.runtime.model import MultiAdapterModel

    model = MultiAdapterModel.from_pretrained(name, max_adapter_bytes=max_adapter_bytes, **settings)
    for adapter, path in paths.items():
        model.load_adapter(path, adapter)
    account = model.memory()
    for entry in account["adapters"].values():
        entry["ratio"] = entry["bytes"] / entry["file_bytes"]
    return {**account, "total": account["base"] + account["adapters_resident"]}


def print_facts(facts: dict[str, Any]) -> None:
    """One adapter as a table."""
    sizes = {f"files.{name}": f"{size:,} bytes" for name, size in facts.pop("files").items()}
    if facts["streams"] is None:
        facts["streams"] = "none: a plain LoRA, decoded one token per pass"
    table([*_lines("", facts), *([name, text] for name, text in sizes.items())], ["what", "value"])


def print_memory(account: dict[str, Any]) -> None:
    """The memory account as a table."""
    rows: list[list[Any]] = [["base", account["base"], None, None, "device"]]
    rows += [
        [name, entry["bytes"], entry["file_bytes"], f"{entry['ratio']:.3f}", entry["tier"]]
        for name, entry in account["adapters"].items()
    ]
    rows.append(["adapters on the device", account["adapters_resident"], None, None, None])
    if account["max_adapter_bytes"] is not None:
        rows.append(["most bytes of adapters there", account["max_adapter_bytes"], None, None, None])
    rows.append(["base and adapters", account["total"], None, None, None])
    rows.append(["process", account["process"], None, None, None])
    if account["allocated"] is not None:
        rows.append(["allocated by torch", account["allocated"], None, None, None])
    table(rows, ["what", "bytes", "bytes of its files", "ratio", "where"])


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@click.option("--memory", is_flag=True, help="Load the base and all adapters, and show the bytes that each one takes.")
@click.option(
    "--max-adapter-bytes",
    metavar="N",
    type=POSITIVE,
    default=None,
    help="Most bytes of adapters on the device; beyond it the least recently used one goes.",
)
@base_option(default=None, help="Base model: an alias, a folder or a hub id; without it the first adapter's own.")
@quantization_option()
@dtype_option()
@device_option()
@json_option()
@click.pass_context
def command(
    ctx: click.Context,
    adapters: tuple[str, ...],
    memory: bool,
    max_adapter_bytes: int | None,
    base: str | None,
    quantization: str,
    dtype: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Show what each folder ADAPTER holds: base, LoRA, streams, draft tree, sizes and where it came from.

    With --memory show instead what the base and all these adapters take together; the options of the base are for that.
    """
    if memory:
        settings = {"quantization": quantization, "dtype": dtype, "device_map": device}
        account = collect_memory(adapter_names(adapters), base, max_adapter_bytes=max_adapter_bytes, **settings)
        if as_json:
            print_json(account)
        else:
            print_memory(account)
        return
    for name in ("base", "quantization", "dtype", "device", "max_adapter_bytes"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --memory; without it no base is loaded")
    facts = [collect(adapter) for adapter in adapters]
    if as_json:
        print_json(facts[0] if len(facts) == 1 else {"adapters": facts})
        return
    for number, value in enumerate(facts):
        if number:
            click.echo()
        print_facts(value)
