"""A file of rows that is written as they come, and goes on where it was: rows of an earlier call stand as they are."""

import json
import os
from pathlib import Path
from typing import Any

from ssft.errors import ConfigError, DataError
from ssft.files import check_target, json_text, parse_json, to_json, write_text
from ssft.schema import shown

Row = dict[str, Any]


def settings_path(path: Path) -> Path:
    """Where stands what decided the rows of the file `path`: beside it, so that the file holds rows alone."""
    return path.with_name(f"{path.name}.run")


class RowFile:
    """JSONL whose rows have their number as `row`, from 0 and rising; numbers that were left out have no line.

    rows: those that are there. done: how many numbers are dealt with, as far as the file tells: up to its last line.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Begin the file, or take it up; a last line that was not written to its end is dropped.

        Raises:
            ConfigError: `path` is no file, was not begun with these `settings`, or not by this class at all.
            DataError: a line of it is none that could have been written.
        """
        self.path = path
        then = check_row_file(path)
        if then is not None:
            _check_same(path, then, to_json(settings))
        else:
            write_text(settings_path(path), json_text(settings) + "\n")
            path.touch()
        self.rows = self._taken_up()

    @property
    def done(self) -> int:
        """See the class."""
        return self.rows[-1]["row"] + 1 if self.rows else 0

    def append(self, rows: list[Row]) -> None:
        """Write rows behind the others, in one go."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with self.path.open("ab") as file:
            file.write(text.encode())
        self.rows += rows

    def _taken_up(self) -> list[Row]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        rows: list[Row] = []
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
            where = f"{self.path}, line {number}"
            try:
                row = parse_json(line.decode())
            except ValueError as error:
                raise DataError(f"{where}: {error}; {_AWAY}") from error
            place = row.get("row") if isinstance(row, dict) else None
            if type(place) is not int or place < 0 or (rows and place <= rows[-1]["row"]):
                raise DataError(f"{where}: row={shown(place)} is not the number of a row after the line above; {_AWAY}")
            rows.append(row)
        return rows


_AWAY = "this file cannot be gone on with; move it away, or give another --output"


def check_row_file(path: Path) -> dict[str, Any] | None:
    """The settings that decided the rows of `path`; None where there are no rows yet. Raises `ConfigError` if rows
    cannot be written there, or what stands there is another program's."""
    check_target(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"--output {path} is a device or a pipe, in which nothing can go on; give a file")
    if not path.exists() or not path.stat().st_size:
        return None
    beside = settings_path(path)
    try:
        then = parse_json(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--output {path} exists, and {beside.name}, which `ssft distill` writes beside its rows, cannot be read "
            f"({getattr(error, 'strerror', None) or error}); {_AWAY}"
        ) from error
    return then if isinstance(then, dict) else {}


def _check_same(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `ConfigError` unless the rows of `path` were decided by the settings `now`."""
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if changed:
        told = ", ".join(f"{key} ({shown(then.get(key))} then, {shown(now.get(key))} now)" for key in changed)
        raise ConfigError(
            f"--output {path} was begun with another {told}; go on with the same settings, or give another --output"
        )
