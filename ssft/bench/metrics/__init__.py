"""Metrics of one text against its references: every file here is one, found on disk.

A metric's module holds

- `NAME` and `DESCRIPTION`: on the command line,
- `NEEDS`: what its references must be; "texts" for any,
- `fits(references)`: whether it suits these references, [rows][texts],
- `score(text, references)`: name -> value of one row, in percent. No value depends on other rows.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssft.errors import DataError

AUTO = "auto"
PREFERRED = ("sql", "json", "exact", "rouge")
"""What `auto` takes: the first of these that fits."""


def metric_names() -> list[str]:
    """Names of all metrics."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def metric_module(name: str) -> Any:
    """The module of one of `metric_names`."""
    return importlib.import_module(f"{__name__}.{name}")


def choose_metric(name: str, references: Sequence[Sequence[str]]) -> str:
    """`auto` becomes the metric that suits the references: SQL, JSON objects, labels, or else texts.

    Raises `DataError` if the references are not what the named metric needs.
    """
    if name == AUTO:
        return next(metric for metric in PREFERRED if metric_module(metric).fits(references))
    module = metric_module(name)
    if module.NEEDS != "texts" and not module.fits(references):
        raise DataError(f"the metric {name} needs references that are {module.NEEDS}, and some are not; name another")
    return name
