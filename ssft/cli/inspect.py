"""Show what adapter folders hold, or what they take in memory over their base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ssft.cli import _options as shared
from ssft.cli._shelf import adapter_names, shared_base

if TYPE_CHECKING:
    from ssft.bundle.format import Bundle


def collect(adapter: str) -> dict[str, Any]:
    """Everything that `ssft inspect` prints of a folder, as plain values; raises `BundleError` for a damaged one."""
    from ssft.bundle.read import read_bundle
    from ssft.bundle.shipped import local_adapter

    bundle = read_bundle(local_adapter(adapter) or adapter)
    lora, *own_lora = bundle.loras
    targets = lora.config.get("target_modules")
    streams = None if bundle.stream_config is None else bundle.stream_config.stream_dict()
    return {
        "adapter": bundle.path.resolve().name,
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
        "draft_vocabulary": bundle.draft_ids or None,
        "prune_head": _prune_head(bundle),
        "tree": None if streams is None else bundle.tree.tree_dict(),
        "extra_parameters": bundle.extra_parameters,
        "size_bytes": bundle.size_bytes,
        "files": {path.name: path.stat().st_size for path in sorted(bundle.path.iterdir()) if path.is_file()},
        # Without its long parts, such as the history of the losses.
        "provenance": {key: value for key, value in bundle.provenance.items() if not isinstance(value, list)},
    }


def _prune_head(bundle: Bundle) -> dict[str, int] | None:
    """Rank θ and parameters 2·θ·h of the prune head; None where there is none."""
    rank = 0 if bundle.stream_config is None else bundle.stream_config.prune_head_rank
    return {"rank": rank, "parameters": bundle.prune_parameters} if rank else None


def collect_memory(paths: dict[str, Path], base: str | None, **loading: Any) -> dict[str, Any]:
    """The memory account of all adapters over one base; `loading` goes to `MultiAdapterModel.from_pretrained`.

    Beside what `MultiAdapterModel.memory` says: `total`, the base with the adapters on its device, and the `ratio` of
    each adapter's bytes to those of its files.
    """
    name = shared_base(paths, base)
    from ssft.runtime.model import MultiAdapterModel

    model = MultiAdapterModel.from_pretrained(name, **loading)
    for adapter, path in paths.items():
        model.load_adapter(path, adapter)
    account = model.memory()
    for entry in account["adapters"].values():
        entry["ratio"] = entry["bytes"] / entry["file_bytes"]
    return {**account, "total": account["base"] + account["adapters_resident"]}


def print_memory(account: dict[str, Any]) -> None:
    """The memory account as a table."""
    adapters = [[name, e["bytes"], e["file_bytes"], e["ratio"], e["tier"]] for name, e in account["adapters"].items()]
    sums = {
        "adapters on the device": account["adapters_resident"],
        "most bytes of adapters there": account["max_adapter_bytes"],
        "base and adapters": account["total"],
        "process": account["process"],
        "allocated by torch": account["allocated"],
    }
    rows = [["base", account["base"], None, None, "device"], *adapters]
    rows += [[name, size, None, None, None] for name, size in sums.items() if size is not None]
    shared.table(rows, ["what", "bytes", "bytes of its files", "ratio", "where"])


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@click.option("--memory", is_flag=True, help="Load the base and all adapters, and show the bytes that each one takes.")
@click.option(
    "--max-adapter-bytes",
    metavar="N",
    type=shared.POSITIVE,
    help="Most bytes that adapters may take on the device. Where they would take more, ssft moves the adapter that was "
    "used least recently away from it.",
)
@shared.base_option(
    help="Base model: an alias, a folder or a hub id. Without it the command takes the first adapter's own."
)
@shared.quantization_option()
@shared.dtype_option()
@shared.device_option("device_map")
@shared.json_option()
@click.pass_context
def command(
    ctx: click.Context,
    adapters: tuple[str, ...],
    memory: bool,
    base: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Show what each folder ADAPTER holds: base, LoRA, streams, draft tree, sizes and where it came from.

    With --memory the command loads the base and shows what it and all these adapters take together. Only then do the
    options that say how a base is loaded make sense.
    """
    if memory:
        account = collect_memory(adapter_names(adapters), base, **loading)
        (shared.print_json if as_json else print_memory)(account)
        return
    for option in ctx.command.params:
        given = option.name and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option.name in ("base", *loading):
            raise click.UsageError(f"{option.opts[0]} is for --memory; without it no base is loaded")
    facts = [collect(adapter) for adapter in adapters]
    if as_json:
        shared.print_json(facts[0] if len(facts) == 1 else {"adapters": facts})
        return
    for number, value in enumerate(facts):
        if number:
            click.echo()
        shared.print_facts({**value, "streams": value["streams"] or "none: a plain LoRA, decoded one token per pass"})
