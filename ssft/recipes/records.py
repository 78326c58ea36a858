"""Records of files as they are: JSONL, JSON arrays and CSV (also gzip), parquet, and folders of such files."""

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ssft.errors import DataError
from ssft.files import parse_json
from ssft.schema import shown

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = tuple(f"{suffix}.gz" for suffix in SUFFIXES[:-1])
REMEDY = "give a file (JSONL, JSON, CSV, parquet), a folder of such files, a hub dataset owner/name, or quickstart"
_HELD_BACK = ("valid", "dev", "test", "eval")
_ENDS = json.JSONDecoder(parse_int=str)  # for finding where an item ends, however long its numbers
_SPACE = re.compile(r"\s*")


def looks_like_file(name: str) -> bool:
    """Whether a name ends as the files that are read here do."""
    return name.lower().endswith((*SUFFIXES, *COMPRESSED, ".gz", ".txt"))


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file, or of all data files of a folder, each with "path, line N" for messages.

    CSV gives every value as text. Raises `DataError` for what cannot be read.
    """
    for file in data_files(path):
        name = file.name.lower().removesuffix(".gz")
        if name.endswith(".parquet"):
            yield from _parquet_rows(file)
        elif name.endswith((".csv", ".tsv")):
            yield from _csv_rows(file)
        elif name.endswith(".json") and _first_character(file) == "[":
            yield from _array_items(file)
        else:
            yield from json_lines(file)


def data_files(path: Path) -> list[Path]:
    """The file itself, or a folder's files that are read here, by name. Raises `DataError` if there are none."""
    if not os.path.isdir(path):
        if not os.path.isfile(path):  # unlike Path.is_file without an error for a name that no system takes
            raise DataError(f"{path}: {'no regular file' if os.path.exists(path) else 'no such file'}; {REMEDY}")
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.name.lower().endswith((*SUFFIXES, *COMPRESSED))]
    files = [file for file in files if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise DataError(f"{path}: the folder has no data file; put {', '.join(SUFFIXES)} files right into it")
    held_back = [file for file in files if file.name.lower().startswith(_HELD_BACK)]
    if held_back and len(held_back) < len(files):
        rest = next(file for file in files if file not in held_back)
        raise DataError(
            f"{path}: the folder holds {held_back[0].name} beside {rest.name}, so a training on all of it would see "
            f"what is to be held back; name the files: data.train={rest} data.validation={held_back[0]}"
        )
    return files


def json_lines(path: Path, remedy: str = REMEDY) -> Iterator[tuple[str, Any]]:
    """The values of a JSONL or gzip JSONL file, each with "path, line N" for messages; blank lines are skipped.

    Raises `DataError` for a file that cannot be read (`remedy` ends the message where there is none) or a line that is
    no JSON.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: {'is a folder' if os.path.isdir(path) else 'no such file'}; {remedy}")
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            parse = partial(parse_json, line.strip())
            value = _decoded(path, number, number, parse, "write one complete JSON object per line")
            yield f"{path}, line {number}", value


def _array_items(path: Path) -> Iterator[tuple[str, Any]]:
    """The items of a file that is one JSON array, with the line on which each begins."""
    text = "".join(_lines(path))
    place, line, counted = text.index("[") + 1, 1, 0
    more = not text[place:].lstrip().startswith("]")
    while more:
        place = _after_space(text, place)
        line, counted = line + text.count("\n", counted, place), place
        parse = partial(_item, text, place)
        value, place = _decoded(path, line, 1, parse, "write an array of complete JSON objects")
        yield f"{path}, line {line}", value
        place = _after_space(text, place)
        more = text[place : place + 1] == ","
        if not more and text[place:].strip() != "]":
            what = f"after the item of line {line} stands neither ',' nor the ']' that ends the file"
            raise DataError(f"{path}: {what}; is it cut off?")
        place += 1


def _after_space(text: str, place: int) -> int:
    return _SPACE.match(text, place).end()  # type: ignore[union-attr]


def _item(text: str, place: int) -> tuple[Any, int]:
    """The value that begins at `place`, and where it ends."""
    end = _ENDS.raw_decode(text, place)[1]
    return parse_json(text[place:end]), end


def _decoded(path: Path, line: int, first: int, parse: Callable[[], Any], remedy: str) -> Any:
    """What `parse` gives; its errors become a `DataError`. The value begins on `line`, the parsed text on `first`."""
    try:
        return parse()
    except json.JSONDecodeError as error:
        where = f"{path}, line {first + error.lineno - 1}"
        raise DataError(f"{where}: invalid JSON at column {error.colno} ({error.msg}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: {error}; correct or remove it") from error


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV or TSV file by the names in its first line. What separates them is the one of , ; and tab that
    stands most often in that line."""
    lines = _lines(path)
    header = next(lines, "")
    separator = max(",;\t", key=header.count)
    names = [name.strip() for row in csv.reader([header], delimiter=separator) for name in row]
    if not names or len(set(names)) < len(names) or not all(names):
        what = f"the first line must name every column once, got {shown(header.strip())}"
        raise DataError(f"{path}, line 1: {what}; write a line such as text,label")
    reader, number = csv.reader(lines, delimiter=separator, strict=True), 2
    try:
        for values in reader:
            if len(values) not in (0, len(names)):
                what = f"{len(values)} values for the {len(names)} columns {', '.join(names)}"
                raise DataError(f"{path}, line {number}: {what}; put a value that holds {separator!r} in double quotes")
            if values:
                yield f"{path}, line {number}", dict(zip(names, values, strict=True))
            number = reader.line_num + 2
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: no valid CSV ({error}); save the table again as CSV") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from datasets import load_dataset

    try:
        table = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        for number, row in enumerate(table, start=1):
            yield f"{path}, row {number}", row
    except DataError:
        raise
    except Exception as error:  # datasets and pyarrow raise unrelated types for a damaged file
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{path} cannot be read as parquet ({reason}); write the file again") from error


def _first_character(path: Path) -> str:
    return next((line.lstrip()[0] for line in _lines(path) if line.strip()), "")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, gzip or not; what fails while it is read becomes a `DataError`."""
    number = 0
    try:
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            for line in file:
                number += 1
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"truncated or damaged gzip data ({error})"
        raise DataError(f"{path}, after line {number}: {what}; copy the file again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the file and its rights") from error
