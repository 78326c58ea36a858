"""Metrics of one text against its references: every file here is one, found on disk.

A metric's module holds

- `NAME` and `DESCRIPTION`: on the command line,
- `fits(references)`: whether it suits these references, [rows][texts],
- `score(text, references)`: name -> value of one row, in percent. No value depends on other rows.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

AUTO = "auto"
PREFERRED = ("sql", "exact", "rouge")
"""What `auto` takes: the first of these that fits."""


def metric_names() -> list[str]:
    """Names of all metrics."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def metric_module(name: str) -> Any:
    """The module of one of `metric_names`."""
    return importlib.import_module(f"{__name__}.{name}")


def choose_metric(name: str, references: Sequence[Sequence[str]]) -> str:
    """`auto` becomes the metric that suits the references: SQL, labels, or else texts."""
    return name if name != AUTO else next(metric for metric in PREFERRED if metric_module(metric).fits(references))
