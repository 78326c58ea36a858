"""The tables of a card: speed, quality, and the training that made the adapter."""

import re
from typing import Any

from ssft.bundle.folder import finite
from ssft.bundle.format import PROVENANCE, Bundle
from ssft.card.rows import Rows
from ssft.errors import BundleError
from ssft.tables import Column, Table, count, estimate

_METRIC = re.compile(r"eval_(acceptance_\d{1,2}|chain_tokens_per_call)")
_SHOWN = ("ssft", "torch", "transformers", "peft", "trl")


def commands(rows: Rows) -> dict[str, int]:
    """Every command that made a row -> its number, from 1 on."""
    found = [row.command for row in rows.speed]
    for row in rows.quality:
        found += [row.command, row.twin_command]
    return {command: number for number, command in enumerate(dict.fromkeys(filter(None, found)), start=1)}


def speed_tables(found: Rows) -> dict[str, Table]:
    """Device -> the table of what was measured there."""
    numbers = commands(found)
    columns = ["method", Column("tokens per call", ".2f"), Column("speed-up (95 % interval)", ".2f", "×"), "over"]
    columns += ["same text", "precision, batch, tree", "data", "by"]
    rows: dict[str, list[list[Any]]] = {}
    for row in found.speed:
        cells = [
            row.method,
            row.tokens / row.calls if row.calls else None,
            estimate(row.speedup, row.speedup_interval),
            None if row.speedup is None else f"{row.baseline}, {count(row.rounds, 'round')}",
            None if row.identical is None else f"{row.identical} of {row.rows} ({row.reference})",
            ", ".join(filter(None, (row.precision, str(row.batch_size), row.tree))),
            f"{row.data}: {count(row.rows, 'prompt')}, at most {row.max_new_tokens} tokens",
            f"({numbers[row.command]})",
        ]
        rows.setdefault(row.device, []).append(cells)
    return {device: Table("", columns, cells) for device, cells in rows.items()}


def category_table(found: Rows) -> Table | None:
    """How each method with drafts did on the prompts of each category; None where there is one category only."""
    columns: list[Any] = ["category", "prompts", "method", Column("tokens per call", ".2f")]
    columns += [Column("speed-up", ".2f", "×"), "over", "same text"]
    cells = [
        [
            row.category,
            row.rows,
            row.method,
            row.tokens / row.calls if row.calls else None,
            estimate(row.speedup, row.speedup_interval),
            row.baseline,
            None if row.identical is None else f"{row.identical} of {row.rows}",
        ]
        for row in found.categories
    ]
    return Table(f"({commands(found)[found.categories[0].command]})", columns, cells) if cells else None


def quality_table(found: Rows) -> Table | None:
    """The metrics beside those of the twin; the notes say in what the twin is unlike."""
    numbers = commands(found)
    cells = [
        [
            row.metric,
            estimate(row.value, row.interval),
            estimate(row.twin, row.twin_interval),
            estimate(row.difference, row.difference_interval),
            f"{row.data}: {count(row.rows, 'row')}, {row.precision}",
            ", ".join(f"({numbers[command]})" for command in (row.command, row.twin_command) if command),
        ]
        for row in found.quality
    ]
    numbered = [Column(name, ".2f", right=True) for name in ("adapter", "twin", "difference")]
    notes = [f"The twin: {text}." for text in dict.fromkeys(row.twin_unlike for row in found.quality) if text]
    return Table("", ["metric", *numbered, "data, precision", "by"], cells, notes) if cells else None


def training_table(bundle: Bundle) -> Table:
    """What the adapter is, and what `provenance.json` tells of its training; `BundleError` where that is damaged."""
    streams, told = bundle.stream_config, bundle.provenance
    assert streams is not None
    lora, *own = bundle.loras
    modules, libraries, metrics = lora.config.get("target_modules"), told.get("libraries"), told.get("metrics")
    shown = ", ".join(sorted(map(str, modules))) if isinstance(modules, list) else str(modules)
    steps, seconds, train_rows = (_count(told, key) for key in ("steps", "train_seconds", "train_rows"))
    processes, source = _count(told, "processes"), data_files(bundle).get("train", {})
    versions = {"ssft": told.get("ssft"), **(libraries if isinstance(libraries, dict) else {})}
    rows = {
        "streams γ, layers N_s": f"{streams.num_streams}, {streams.num_msa_layers}",
        "LoRA rank, modules": f"{lora.config['r']}; {shown}",
        "parameters: LoRA, streams": f"{lora.parameters:,}, {bundle.stream_parameters:,}",
        "the streams' own LoRA: rank, parameters": "; ".join(f"{p.config['r']}, {p.parameters:,}" for p in own),
        "prune head: rank, parameters": bundle.prune_parameters
        and f"{streams.prune_head_rank}, {bundle.prune_parameters:,}",
        "weights": f"{bundle.weights_bytes / 1e6:,.1f} MB",
        "draft vocabulary": bundle.draft_ids and f"{bundle.draft_ids:,} token ids",
        "draft tree": f"{bundle.tree.kind}, {bundle.tree.size}",
        "the LoRA" if own else "began from": _ancestor(bundle),
        "trained on": train_rows is not None
        and f"{train_rows:,.0f} rows of {source.get('name', 'data without a name')}",
        "steps": steps is not None and f"{steps:,.0f}",
        "time": seconds is not None and f"{seconds:,.0f} s ({seconds / 3600:.2f} h)",
        "device": told.get("device"),
        "processes": processes is not None and processes > 1 and f"{processes:.0f}",
        "versions": ", ".join(f"{name} {versions[name]}" for name in _SHOWN if versions.get(name)),
    }
    for key, value in sorted(metrics.items()) if isinstance(metrics, dict) else ():
        if _METRIC.fullmatch(key) and (number := finite(value)) is not None:
            title = key.removeprefix("eval_").replace("_", " ")
            rows[f"{title}, at the end, teacher-forced"] = f"{number:.3f}"
    return Table("", ["", ""], [[name, text] for name, text in rows.items() if text and isinstance(text, str)])


def data_files(bundle: Bundle) -> dict[str, dict[str, str]]:
    """train, validation -> name, and sha256 where it was a file, as far as `provenance.json` tells them."""
    data = bundle.provenance.get("data")
    found = {}
    for part in ("train", "validation"):
        entry = data.get(part) if isinstance(data, dict) else None
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"]:
            found[part] = {key: str(entry[key]) for key in ("name", "sha256") if key in entry}
    return found


def _ancestor(bundle: Bundle) -> str:
    """The adapter that the training began from or whose LoRA it kept, by its weights: many have one name."""
    start = bundle.provenance.get("adapter")
    if not isinstance(start, dict) or not isinstance(name := start.get("name"), str):
        return ""
    text = f"another adapter named {name} (weights {str(start.get('weights_sha256'))[:12]})"
    lora, *own = bundle.loras
    return f"that of {text}, kept as it was, in {lora.dtype}" if own else text


def _count(told: dict[str, Any], key: str) -> float | None:
    """A finite number of provenance.json, None if it is not told; anything else is a `BundleError`."""
    value = told.get(key)
    number = finite(value)
    if value is not None and (number is None or number < 0):
        raise BundleError(f"{PROVENANCE}: {key}={str(value)[:60]!r}, expected a number; the file is damaged")
    return number
