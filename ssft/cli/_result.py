"""What the commands that yield a result share: the file that it goes to, how it is told, whose it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._command_line import command_line
from ssft.cli._options import Decorator, print_json
from ssft.files import check_target, write_json

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


def file_option(name: str = "--output", help: str = "Write the result to FILE as JSON.") -> Decorator:
    """An option that names a file to write, checked before anything is done; parameter `Path | None`."""

    def check(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None:
            check_target(path, name)
        return path

    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option(name, metavar="FILE", type=kind, default=None, callback=check, help=help)


def deliver(result: Any, output: Path | None, as_json: bool, show: Callable[[], object]) -> None:
    """Write a result to its file, and print it: as JSON, or as `show` does for people."""
    if output is not None:
        write_json(output, result)
    if as_json:
        print_json(result)
    else:
        show()


def result_facts(kind: str, adapted: MultiAdapterModel, data: Path | None) -> dict[str, Any]:
    """Kind, command, adapter with its hash, the training method that made it and what it was trained on (all empty for
    the bare base, the last two where the folder does not tell), data with its hash (None: the adapter's own validation
    rows), device, precision and tree."""
    from ssft.bench.answers import weights_sha256
    from ssft.bench.card_rows import describe_data
    from ssft.runs.provenance import method_of, told_by
    from ssft.runs.twin import training_of

    folder = None if adapted.active.bundle is None else adapted.active.bundle.path
    provenance = {} if folder is None else told_by(folder)
    return {
        "kind": kind,
        "command": command_line(),
        "adapter": adapted.active.name,
        "adapter_sha256": weights_sha256(adapted),
        "method": method_of(provenance),
        "trained_on": {} if folder is None else training_of(folder, provenance),
        "data": describe_data(data),
        "device": adapted.device,
        "precision": adapted.precision,
        "tree": adapted.active.tree,
    }
