"""Show what an adapter folder holds, without loading its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssft.cli._options import json_option, print_json, table


def collect(adapter: str) -> dict[str, Any]:
    """Everything `ssft inspect` prints, as plain values; raises `BundleError` for a damaged folder."""
    from ssft.adapters.bundle import read_bundle

    bundle = read_bundle(adapter)
    targets = bundle.lora.get("target_modules")
    streams = None if bundle.stream_config is None else bundle.stream_config.stream_dict()
    return {
        "adapter": Path(bundle.path).resolve().name,
        "path": str(bundle.path),
        "format_version": bundle.format_version,
        "base": dict(bundle.base),
        "lora": {
            "r": bundle.lora.get("r"),
            "lora_alpha": bundle.lora.get("lora_alpha"),
            "target_modules": sorted(targets) if isinstance(targets, list) else targets,
            "parameters": bundle.lora_parameters,
        },
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


@click.command()
@click.argument("adapter")
@json_option()
def command(adapter: str, as_json: bool) -> None:
    """Show what the folder ADAPTER holds: base, LoRA, streams, draft tree, sizes and where it came from."""
    facts = collect(adapter)
    if as_json:
        print_json(facts)
        return
    sizes = {f"files.{name}": f"{size:,} bytes" for name, size in facts.pop("files").items()}
    if facts["streams"] is None:
        facts["streams"] = "none: a plain LoRA, decoded one token per pass"
    table([*_lines("", facts), *([name, text] for name, text in sizes.items())], ["what", "value"])
