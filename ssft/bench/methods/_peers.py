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
    "data": ["data", "train", "name"],
    "rows": ["train_rows"],
    "steps": ["steps"],
    "seconds": ["train_seconds"],
    "device": ["device"],
}
"""What is told of a training, and where a provenance has it."""
TEXTS = ("data", "device")
"""Those of `FACTS` that are no numbers."""


def find_part(setting: Setting, method: str, part: str, marker: str, what: str) -> Path:
    """The folder `part` of the adapter's peers, in which the file `marker` lies.

    Raises:
        ConfigError: there is none; names the command that makes `what`.
    """
    name = setting.adapted.active.name
    peers = setting.peers or ROOT / name
    folder = peers / part
    if setting.peers is None or not (folder / marker).is_file():
        where = "no folder of peers was given" if setting.peers is None else f"{folder} holds none"
        raise ConfigError(
            f"{name!r} has no {what} to draft with: {where}; leave {method} out of --methods or make one with "
            f"{command(name, method, folder)}, then give --peers {peers.parent}"
        )
    return folder


def command(name: str, method: str, folder: Path) -> str:
    """The command that trains what `method` needs for the adapter `name` into `folder`; the shipped recipes are for
    SQL."""
    recipe = f"baselines/medusa_sql adapter=<folder of {name}>" if method == "medusa" else "baselines/draft_sql"
    data = "" if name == "sql" else f"data.train=<rows that {name} was trained on> "
    return f"`ssft train {recipe} {data}--output {folder}`"


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
        told = bool(value) if type(value) is str else type(value) in (int, float) and math.isfinite(value)
        if told and isinstance(value, str) == (key in TEXTS):
            found[key] = value
    return found
