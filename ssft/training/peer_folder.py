"""Writing an output folder so that it appears whole or not at all."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import PROVENANCE, RUN
from ssft.errors import BundleError, ConfigError
from ssft.files import whole_folder


@contextmanager
def result_folder(
    target: Path, run_yaml: str, provenance: dict[str, Any], replaceable: Callable[[Path], bool]
) -> Iterator[Path]:
    """`files.whole_folder` for the result of a run; `run.yaml` and `provenance.json` are in it already.

    `replaceable` tells of what stands at `target` whether it is an earlier result of the same kind.

    Raises:
        ConfigError: something else stands at `target`, before the block or after it.
    """
    with whole_folder(target, lambda old: check_free(old, replaceable)) as folder:
        (folder / RUN).write_text(run_yaml, encoding="utf-8")
        text = json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")
        yield folder


def may_write(target: Path, replaceable: Callable[[Path], bool]) -> bool:
    """Whether `target` is free, an empty folder, or something that `replaceable` gives away."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir())) or replaceable(target)


def check_free(target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Raise `ConfigError` unless `may_write`."""
    if not may_write(target, replaceable):
        raise ConfigError(
            f"{target} exists and is no earlier result of this kind; nothing there was changed. Choose another folder, "
            "or move that one away (a run that has ended then goes on with --resume)"
        )


def told_by(path: Path) -> dict[str, Any]:
    """The content of the `provenance.json` that a run left in the folder `path`; empty if there is none to be read."""
    try:
        return AdapterFiles(path).json(PROVENANCE, hashed=False)
    except BundleError:
        return {}


def made_by(path: Path) -> str:
    """The training method whose run wrote the folder `path`; empty if its `provenance.json` does not say."""
    return method_of(told_by(path))


def method_of(provenance: dict[str, Any]) -> str:
    """The training method that a run's provenance names; empty if it names none."""
    method = provenance.get("method", "")
    return method if isinstance(method, str) else ""


def training_of(provenance: dict[str, Any]) -> dict[str, str]:
    """What a twin's training must have in common with its adapter's, as far as a run's provenance tells it.

    name, sha256: of the training data; steps; began_from: hash of the adapter whose values were the first ones.
    """
    data, start = provenance.get("data"), provenance.get("adapter")
    entry = data.get("train") if isinstance(data, dict) else None
    found = {key: entry.get(key) for key in ("name", "sha256")} if isinstance(entry, dict) else {}
    found["steps"] = provenance.get("steps")
    found["began_from"] = start.get("weights_sha256") if isinstance(start, dict) else None
    return {key: str(value) for key, value in found.items() if value is not None}
