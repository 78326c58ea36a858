"""Writing an output folder so that it appears whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssft.adapters.bundle import PROVENANCE, RUN


@contextmanager
def whole_folder(target: Path, run_yaml: str, provenance: dict[str, Any]) -> Iterator[Path]:
    """A fresh folder beside `target` to write into; it takes the place of `target` once the block ends without error.

    `run.yaml` and `provenance.json` are in it already. What stood at `target` is replaced: whether it may be is the
    caller's to check.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        (folder / RUN).write_text(run_yaml, encoding="utf-8")
        text = json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")
        yield folder
        if target.exists():
            os.replace(target, Path(scratch) / "replaced")
        os.replace(folder, target)


def made_by(path: Path) -> str:
    """The training method whose run wrote the folder `path`, from its `provenance.json`; empty if that says nothing."""
    try:
        provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    method = provenance.get("method", "") if isinstance(provenance, dict) else ""
    return method if isinstance(method, str) else ""
