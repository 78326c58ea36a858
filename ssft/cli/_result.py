"""What the commands that yield a result share: its file, how it is printed, whose it is, and the line that made it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._options import Decorator, print_json
from ssft.files import check_target, file_identity, write_json

if TYPE_CHECKING:
    from ssft.cli._adapted import Decoding
    from ssft.runtime.model import MultiAdapterModel


def file_option(
    name: str = "--output", help: str = "Write the result to FILE as JSON.", required: bool = False
) -> Decorator:
    """An option that names a file to write, checked before anything is done; parameter `Path | None`."""

    def check(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None:
            check_target(path, name)
        return path

    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option(name, metavar="FILE", type=kind, callback=check, help=help, required=required)


def deliver(result: Any, output: Path | None, as_json: bool, show: Callable[[], object]) -> None:
    """Write a result to its file, and print it: as JSON, or as `show` does for people."""
    if output is not None:
        write_json(output, result)
    if as_json:
        print_json(result)
    else:
        show()


def jsonl(records: Iterable[dict[str, Any]]) -> str:
    """Records as JSONL, one line each."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def command_line(arguments: Sequence[str] | None = None) -> str:
    """`ssft …` as it was called, quoted for a shell; `arguments` defaults to the process's own.

    An absolute path becomes its last part: a result names its files by their hashes, and where they lie on this machine
    is nobody's business.
    """

    def without_folders(argument: str) -> str:
        key, equals, value = argument.rpartition("=")
        return f"{key}{equals}{PurePath(value).name}" if PurePath(value).is_absolute() else argument

    return shlex.join(["ssft", *map(without_folders, sys.argv[1:] if arguments is None else arguments)])


def describe_data(path: Path | None) -> dict[str, str] | None:
    """A data file's name and hash, as results keep it; None stands for the adapter's own validation rows."""
    return None if path is None else file_identity(path)


def result_facts(
    kind: str, adapted: MultiAdapterModel, data: Path | None, rows: int, decoding: Decoding
) -> dict[str, Any]:
    """The fields of an `Answered` of `kind` that say whose it is, on what, and how it was made.

    `method` and `trained_on` say how the adapter was trained as far as its folder tells, and are empty for the bare
    base; `data` is None where the prompts are the adapter's own validation rows.
    """
    from ssft.bench.answers import weights_sha256
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
        "tree": adapted.active.tree.tree_dict(),
        "rows": rows,
        "batch_size": decoding.batch_size,
        "max_new_tokens": decoding.max_new_tokens,
    }
