"""What a run says about itself: versions, commit, device, hashes of the data, metrics and history; and reading that."""

import subprocess
from pathlib import Path
from typing import Any

from datasets import Dataset

from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import PROVENANCE
from ssft.environment import describe_device, versions
from ssft.errors import BundleError
from ssft.files import file_identity, json_sha256, json_text
from ssft.recipes.config import DataConfig
from ssft.recipes.recipe import Recipe
from ssft.recipes.records import data_files

LONGEST_EXAMPLE = 4_000
"""Characters of a row that a card shows."""


def provenance(
    recipe: Recipe, trainer: Any, metrics: dict[str, float], seconds: float, rows: dict[str, int]
) -> dict[str, Any]:
    """The content of `provenance.json` after a run of `seconds`; `rows` counts those of training and validation."""
    libraries = versions()
    return {
        "method": recipe.method,
        "ssft": libraries.pop("ssft"),
        "libraries": libraries,
        "commit": _commit(),
        "device": describe_device(trainer.args.device),
        "processes": trainer.args.world_size,
        "train_seconds": round(seconds, 1),
        "train_rows": rows["train"],
        "validation_rows": rows["validation"],
        "data": {part: _describe_source(getattr(recipe.data, part)) for part in ("train", "validation")},
        "steps": trainer.state.global_step,
        "metrics": {key: value for key, value in metrics.items() if isinstance(value, int | float)},
        "history": [{k: v for k, v in entry.items() if k != "total_flos"} for entry in trainer.state.log_history],
    }


def about_rows(data: DataConfig, train: Dataset, validation: Dataset) -> dict[str, Any]:
    """What the card tells of the rows: `form` is "messages" or "prompt", `example` a row of them.

    The example was held back, where rows were. It is told of data that all can have, not of the user's own files, and
    only if it is short enough to be read.
    """
    told: dict[str, Any] = {"form": "messages" if "messages" in train.column_names else "prompt"}
    if not any(source and Path(source).exists() for source in (data.train, data.validation)):
        rows = validation if len(validation) else train
        short = (row for row in rows if len(json_text(row)) <= LONGEST_EXAMPLE)
        if (example := next(short, None)) is not None:
            told["example"] = example
    return told


def told_by(path: Path) -> dict[str, Any]:
    """The content of the `provenance.json` that a run left in the folder `path`; empty if there is none to be read."""
    try:
        return AdapterFiles(path).json(PROVENANCE, hashed=False)
    except BundleError:
        return {}


def method_of(provenance: dict[str, Any]) -> str:
    """The training method that a run's provenance names; empty if it names none."""
    method = provenance.get("method", "")
    return method if isinstance(method, str) else ""


def _describe_source(source: str) -> dict[str, str]:
    """A file's name and hash, a folder's name and the hash of its files, or the name of a hub dataset or generator."""
    if not source or not Path(source).exists():
        return {"name": source}
    if Path(source).is_file():
        return file_identity(source)
    return {
        "name": Path(source).name,
        "sha256": json_sha256([file_identity(file) for file in data_files(Path(source))]),
    }


def _commit() -> str:
    """Commit of the source tree that ran, empty outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()
