"""Training and evaluation data: JSONL files, hub datasets and the built-in rows, as prompt/completion."""

import gzip
import json
import os
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from ssft.base.chat import completion_of, prompt_messages, render_prompt
from ssft.errors import ConfigError, DataError
from ssft.files import parse_json
from ssft.recipes.quickstart import quickstart_rows
from ssft.schema import is_hub_id, setting, shown

if TYPE_CHECKING:
    from datasets import Dataset

QUICKSTART = "quickstart"
QUICKSTART_TRAIN_ROWS = 512
QUICKSTART_VALIDATION_ROWS = 64
FILE_SUFFIXES = (".jsonl", ".json", ".gz", ".txt", ".csv")
ROW_KEYS = ("prompt", "completion", "messages", "references", "category")
LENGTH_BATCH = 256  # rows per tokenizer call in check_lengths


@dataclass
class DataConfig:
    """Where training and validation rows come from. A local file needs the keys `prompt` and `completion` (or
    `messages`); the columns of a hub dataset are put into that form by the two templates."""

    train: str = setting(
        QUICKSTART, "local .jsonl or .jsonl.gz file, hub dataset owner/name[:config], or 'quickstart' (built in)"
    )
    validation: str = setting(
        "", "as train; empty: the source of train (validation_split of a hub dataset, else validation_fraction)"
    )
    train_split: str = setting("train", "hub datasets: split to train on")
    validation_split: str = setting("", "hub datasets: split to validate on; empty: held back from the training split")
    revision: str = setting(
        "",
        "hub datasets: branch, tag or commit; 'refs/convert/parquet' is the hub's own copy of a dataset "
        "that needs a loading script",
    )
    prompt_template: str = setting(
        "", "hub datasets: format string over the columns, such as '{question}'; empty: column prompt"
    )
    completion_template: str = setting("", "hub datasets: as prompt_template; empty: column completion")
    max_train_rows: int = setting(0, "most training rows, drawn at random by the seed; 0: all (quickstart: 512)")
    max_validation_rows: int = setting(0, "most validation rows, drawn at random by the seed; 0: all (quickstart: 64)")
    validation_fraction: float = setting(
        0.05, "share of the training source held back, drawn by the seed, where it has no validation rows"
    )

    def check_data(self) -> None:
        """Raise `ConfigError` if a field is out of range or a template is malformed."""
        if not self.train:
            raise ConfigError("data.train is empty: give a file, a hub dataset owner/name, or quickstart")
        for key in ("max_train_rows", "max_validation_rows"):
            if getattr(self, key) < 0:
                raise ConfigError(f"data.{key}={getattr(self, key)}: 0 (all rows) or a positive number of rows")
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"data.validation_fraction={self.validation_fraction}: a share between 0 and 1")
        for key in ("prompt_template", "completion_template"):
            _check_template(f"data.{key}", getattr(self, key))


def load_rows(path: str | Path, limit: int | None = None, need_completion: bool = True) -> list[dict[str, Any]]:
    """Rows of a JSONL or gzip JSONL file, the first `limit` of them, with the keys prompt, completion or messages, and
    references and category where given; other keys are left out. Blank lines are skipped.

    With `need_completion` a row needs a completion (or messages that end with the assistant's); without, a prompt is
    enough. Raises `DataError` that names file and line.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least one row is needed; leave the limit out to read all of {path}")
    rows = [_check_row(value, where, need_completion) for where, value in islice(json_lines(path), limit)]
    if not rows:
        raise DataError(f"{path} is empty: write one JSON object per line, with `prompt` and `completion`")
    return rows


def json_lines(
    path: Path, remedy: str = "give a .jsonl or .jsonl.gz file, a hub dataset owner/name, or quickstart"
) -> Iterator[tuple[str, Any]]:
    """The values of a JSONL or gzip JSONL file, each with "path, line N" for messages; blank lines are skipped.

    Raises `DataError` for a file that cannot be read (`remedy` ends the message where there is none) or a line that is
    no JSON.
    """
    if not os.path.isfile(path):  # false also for what no file can be named
        raise DataError(f"{path}: {'is a folder' if os.path.isdir(path) else 'no such file'}; {remedy}")
    number = 0
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}, line {number}", parse_json(line)
    except json.JSONDecodeError as error:
        what = f"invalid JSON at column {error.colno} ({error.msg})"
        raise DataError(f"{path}, line {number}: {what}; write one complete JSON object per line") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"truncated or damaged gzip data ({error})"
        raise DataError(f"{path}, after line {number}: {what}; copy the file again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}; correct or remove the line") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the file and its rights") from error


def _check_row(row: Any, where: str, need_completion: bool) -> dict[str, Any]:
    """The known keys of one row after checking them; `where` opens the message of the `DataError`."""
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected a JSON object, got {shown(row)}; write {{"prompt": …, "completion": …}}')
    row = {key: row[key] for key in ROW_KEYS if row.get(key) is not None}
    if "messages" in row:
        if "prompt" in row or "completion" in row:
            raise DataError(f"{where}: has both `messages` and `prompt`/`completion`; keep one of the two forms")
        _check_messages(row["messages"], where, need_completion)
    elif missing := [key for key in ("prompt", "completion")[: 1 + need_completion] if key not in row]:
        raise DataError(f"{where}: no `{missing[0]}`; add it, or give `messages`")
    for key in ("prompt", "completion", "category"):
        if key in row and not (isinstance(row[key], str) and row[key].strip()):
            raise DataError(f"{where}: `{key}` must be a text, got {shown(row[key])}; fill it in quotes, or remove it")
    references = row.get("references", [])
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DataError(f"{where}: `references` must be a list of strings, got {shown(references)}")
    return row


def _check_messages(messages: Any, where: str, need_completion: bool) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: `messages` must be a non-empty list of {{role, content}}, got {shown(messages)}")
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}: message {place} needs the strings `role` and `content`")
        if message["role"] == "assistant" and not message["content"].strip():
            raise DataError(f"{where}: message {place}, the assistant's, is empty; fill it, or remove the row")
    if need_completion and (role := messages[-1]["role"]) != "assistant":
        raise DataError(f"{where}: `messages` ends with role {role!r}; end it with the assistant's, the completion")
    if not prompt_messages(messages):
        raise DataError(f"{where}: `messages` holds the assistant's only; add the user's before it")


def load_row_pair(config: DataConfig, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation rows, with the references and categories that their files give.

    `seed` draws the held-back share, the rows kept by `max_*_rows` and the built-in rows. Raises `DataError`.
    """
    config.check_data()
    source = config.validation or config.train
    train = _source_rows(config.train, config.train_split, config, seed, "train")
    splits_exist = config.train == QUICKSTART or (_is_hub(config.train) and bool(config.validation_split))
    if source != config.train or splits_exist:
        validation = _source_rows(source, config.validation_split or "validation", config, seed, "validation")
    else:
        count = round(len(train) * config.validation_fraction)
        if not 0 < count < len(train):
            what = (
                f"{len(train)} rows: data.validation_fraction={config.validation_fraction} holds {count} of them back"
            )
            remedy = "both parts need one; give data.validation=FILE or change the fraction"
            raise DataError(f"data.train={config.train} has {what}, and {remedy}")
        validation = _sample(train, count, seed)
        held = set(map(id, validation))
        train = [row for row in train if id(row) not in held]
    return _sample(train, config.max_train_rows, seed), _sample(validation, config.max_validation_rows, seed)


def load_dataset_pair(config: DataConfig, seed: int) -> "tuple[Dataset, Dataset]":
    """`load_row_pair` as `datasets.Dataset`s with the columns prompt and completion, or messages."""
    train, validation = load_row_pair(config, seed)
    return _to_dataset(train, config.train), _to_dataset(validation, config.validation or config.train)


def _source_rows(source: str, split: str, config: DataConfig, seed: int, part: str) -> list[dict[str, Any]]:
    """All rows of one source; `part` is train or validation."""
    if source == QUICKSTART:
        train_rows = config.max_train_rows or QUICKSTART_TRAIN_ROWS
        validation_rows = config.max_validation_rows or QUICKSTART_VALIDATION_ROWS
        return quickstart_rows(train_rows if part == "train" else validation_rows, seed, part)
    if _is_hub(source):
        return _hub_rows(source, split, config, part)
    return load_rows(source)


def _is_hub(source: str) -> bool:
    """Whether `source` reads as owner/name[:config] and neither exists nor looks like a file."""
    repository, colon, config = source.partition(":")
    named = is_hub_id(repository) and bool(config) == bool(colon)
    return named and not os.path.exists(source) and not source.endswith(FILE_SUFFIXES)


def _hub_rows(source: str, split: str, config: DataConfig, part: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    path, _, name = source.partition(":")
    try:
        table = load_dataset(path, name or None, split=split, revision=config.revision or None)
    except Exception as error:  # the libraries below raise a dozen unrelated types for network, name and format
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if "scripts are no longer supported" in reason:
            remedy = "it needs a loading script; set data.revision=refs/convert/parquet, the hub's own copy"
        elif isinstance(error, ValueError):
            remedy = "check the split (data.train_split, data.validation_split) and the config (owner/name:config)"
        else:
            remedy = "the hub could not be reached or has no such dataset"
        raise DataError(
            f"data.{part}={source} (split {split!r}): {remedy}. {reason}. A local file does as well: data.{part}=FILE, "
            "JSONL with `prompt` and `completion`"
        ) from error
    templates = {"prompt": config.prompt_template, "completion": config.completion_template}
    rows = []
    for number, columns in enumerate(table, start=1):
        where = f"{source}, split {split}, row {number}"
        have = {name: value for name, value in columns.items() if value is not None}
        row = {**have, "category": None}  # training reads none, and a column of that name may hold anything
        for key, template in templates.items():
            for name in _check_template(f"data.{key}_template", template):
                if name not in have:
                    what = f"data.{key}_template names {{{name}}}, which the row lacks"
                    raise DataError(f"{where}: {what}; it has: {', '.join(have)}")
            if template:
                row[key] = template.format_map(have)
        rows.append(_check_row(row, where, need_completion=True))
    if not rows:
        raise DataError(f"data.{part}={source}: split {split!r} has no rows; choose another split or a local file")
    return rows


def _check_template(key: str, template: str) -> list[str]:
    """The columns a template names. Plain names only: format strings could otherwise reach into attributes."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{key}={template!r}: {error}; write {{column}}, and {{{{ }}}} for literal braces") from error
    for name in names:
        if not name.isidentifier():
            raise ConfigError(f"{key}={template!r}: {{{name}}} is no plain column name; write {{column}}")
    return names


def _sample(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows drawn by the seed, in their order; all of them for 0."""
    if not 0 < count < len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]


def _to_dataset(rows: list[dict[str, Any]], source: str) -> "Dataset":
    from datasets import Dataset

    columns = ("messages",) if "messages" in rows[0] else ("prompt", "completion")
    for number, row in enumerate(rows, start=1):
        if columns[0] not in row:
            missing = f"row 1 has `{columns[0]}`, row {number} does not"
            raise DataError(f"{source}: {missing}; keep `messages` and `prompt`/`completion` in two files")
    return Dataset.from_list([{key: row[key] for key in columns} for row in rows])


def check_lengths(rows: Iterable[dict[str, Any]], tokenizer: Any, context_length: int) -> None:
    """Raise `DataError` for the first row whose prompt and completion, with the end-of-sequence token, exceed
    `context_length` tokens. Rows are counted from 1; a row without completion is checked by its prompt."""
    rows, start = iter(rows), 1
    while batch := list(islice(rows, LENGTH_BATCH)):
        # one tokenizer call per side: fast tokenizers work on lists in parallel
        texts = [render_prompt(row, tokenizer) for row in batch], [completion_of(row) for row in batch]
        prompts, completions = (tokenizer(side, add_special_tokens=False)["input_ids"] for side in texts)
        for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True), start):
            tail = len(completion) + 1 if completion else 0
            if len(prompt) + tail > context_length:
                both, alone = f"prompt and completion have {len(prompt)} + {tail}", f"the completion alone has {tail}"
                raise DataError(
                    f"row {number}: {alone if tail > context_length else both} tokens, the limit is {context_length}; "
                    "shorten or remove the row, or raise training.max_length as far as the base's context allows "
                    "(base=… for a longer one)"
                )
        start += len(batch)
