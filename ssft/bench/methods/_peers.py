"""What was trained for a method: where it lies in the folder of peers, and what its training was."""

import math
from pathlib import Path
from typing import Any

from ssft.bench.methods import Setting
from ssft.errors import ConfigError
from ssft.runs.provenance import told_by

ROOT = Path("outputs/peers")


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
    recipe = f"peers/medusa_sql adapter=<folder of {name}>" if method == "medusa" else "peers/draft_sql"
    data = "" if name == "sql" else f"data.train=<rows that {name} was trained on> "
    return f"`ssft train {recipe} {data}--output {folder}`"


def training(folder: Path) -> dict[str, Any]:
    """What `DecodingMethod.training` tells of the run that made a folder; empty where its provenance is none or cannot
    be read, since nothing depends on it."""
    told = told_by(folder)
    source: Any = told.get("data")
    source = source.get("train") if isinstance(source, dict) else None
    facts: dict[str, Any] = {
        "data": source.get("name") if isinstance(source, dict) else None,
        "rows": told.get("train_rows"),
        "steps": told.get("steps"),
        "seconds": told.get("train_seconds"),
        "device": told.get("device"),
    }
    # The file may come from a stranger: what is neither text nor finite number is not told.
    return {k: v for k, v in facts.items() if isinstance(v, str) or (type(v) in (int, float) and math.isfinite(v))}
