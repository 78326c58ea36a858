"""What was trained for a method: where it lies in the folder of peers, and what its training was."""

import json
import math
from pathlib import Path
from typing import Any

from ssft.bench.methods import Setting
from ssft.bundle.format import PROVENANCE
from ssft.errors import ConfigError

ROOT = Path("outputs/peers")
FACTS = {
    "data": ("data", "train", "name"),
    "rows": ("train_rows",),
    "steps": ("steps",),
    "seconds": ("train_seconds",),
    "device": ("device",),
}
"""What is told of a training, and where a provenance has it."""


def find_part(setting: Setting, method: str, part: str, marker: str, what: str) -> Path:
    """The folder `part` of the adapter's peers, in which the file `marker` lies.

    Raises:
        ConfigError: there is none; names the command that makes `what`.
    """
    peers = ROOT / setting.adapted.active.name if setting.peers is None else setting.peers
    folder = peers / part
    if setting.peers is None or not (folder / marker).is_file():
        where = "no folder of peers was given" if setting.peers is None else f"{folder} holds none"
        raise ConfigError(
            f"{setting.adapted.active.name!r} has no {what} to draft with: {where}; leave {method} out of --methods or "
            f"make one with {command(setting.adapted.active.name, method, folder)}, then give --peers {peers.parent}"
        )
    return folder


def command(name: str, method: str, folder: Path) -> str:
    """The command that trains what `method` needs for the adapter `name` into `folder`; the shipped recipes are for
    SQL."""
    data = "" if name == "sql" else f"data.train=<rows that {name} was trained on> "
    if method == "medusa":
        return f"`ssft train baselines/medusa_sql adapter=<folder of {name}> {data}--output {folder}`"
    return f"`ssft train baselines/draft_sql {data}--output {folder}`"


def read_training(folder: Path) -> dict[str, Any]:
    """`training` of the folder's provenance; empty where that is missing or no JSON, since nothing depends on it."""
    try:
        return training(json.loads((folder / PROVENANCE).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def training(provenance: Any) -> dict[str, Any]:
    """What `DecodingMethod.training` tells of a provenance: those of `FACTS` that are there and of their kind."""
    found = {}
    for key, path in FACTS.items():
        value = provenance
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        texts = key in ("data", "device")
        if (type(value) is str and value) if texts else (type(value) in (int, float) and math.isfinite(value)):
            found[key] = value
    return found
