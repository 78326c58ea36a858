"""What was trained for a method: where it lies in the folder of peers, and what its training was."""

import json
import math
from pathlib import Path
from typing import Any

from ssft.bench.methods import Setting
from ssft.bundle.format import PROVENANCE
from ssft.errors import ConfigError

ROOT = Path("outputs/peers")


def find_part(setting: Setting, method: str, part: str, marker: str, what: str) -> Path:
    """The folder `part` of the adapter's peers, in which the file `marker` lies.

    Raises:
        ConfigError: there is none; names the command that makes `what`.
    """
    peers = ROOT / setting.adapted.name if setting.peers is None else setting.peers
    folder = peers / part
    if setting.peers is None or not (folder / marker).is_file():
        where = "no folder of peers was given" if setting.peers is None else f"{folder} holds none"
        raise ConfigError(
            f"{setting.adapted.name!r} has no {what} to draft with: {where}; leave {method} out of --methods, or make "
            f"one with {command(setting.adapted.name, method, folder)}, then give --peers {peers.parent}"
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
    """What `DecodingMethod.training` tells of a provenance: those of `data`, `rows`, `steps`, `seconds` and `device`
    that are there and of their kind."""
    known = provenance if isinstance(provenance, dict) else {}
    source = known.get("data")
    train = source.get("train") if isinstance(source, dict) else None
    texts: dict[str, Any] = {
        "data": train.get("name") if isinstance(train, dict) else None,
        "device": known.get("device"),
    }
    numbers = {"rows": known.get("train_rows"), "steps": known.get("steps"), "seconds": known.get("train_seconds")}
    found: dict[str, Any] = {key: value for key, value in texts.items() if isinstance(value, str) and value}
    found |= {key: value for key, value in numbers.items() if _is_number(value)}
    return {key: found[key] for key in ("data", "rows", "steps", "seconds", "device") if key in found}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
