"""The command line that is running, as a line for a result file: it says what was asked for.

Folders are left out, so the line names the files and does not locate them; which file it was, its hash says, which the
results keep beside the line.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePath


def command_line(arguments: Sequence[str] | None = None) -> str:
    """`ssft …` as it was called, quoted for a shell; an absolute path becomes its last part, since folders are this
    machine's business. `arguments` defaults to the process's own."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["ssft", *(_without_folders(argument) for argument in given)])


def _without_folders(argument: str) -> str:
    """`/data/x.jsonl` -> `x.jsonl`, `sql=/data/x.jsonl` -> `sql=x.jsonl`; anything else as it is."""
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}{PurePath(value).name}" if PurePath(value).is_absolute() else argument
