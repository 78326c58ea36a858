"""Training and evaluation rows: of files, folders, hub datasets and the built-in ones, in form and counted."""

import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssft.errors import DataError
from ssft.recipes.augment import prompt_and_completion, rename_share
from ssft.recipes.config import QUICKSTART, DataConfig
from ssft.recipes.forms import named_columns, to_row
from ssft.recipes.quickstart import quickstart_rows
from ssft.recipes.records import looks_like_file, records
from ssft.schema import is_hub_id, shown

if TYPE_CHECKING:
    from datasets import Dataset

QUICKSTART_ROWS = {"train": 300, "validation": 8}
"""Built-in rows of each part where data.max_*_rows says nothing."""


@dataclass
class Part:
    """The rows that a run trains or validates on. `note` says for people where they come from, how many of how many
    were taken, and by which setting."""

    rows: list[dict[str, Any]]
    note: str

    def dataset(self) -> "Dataset":
        """The rows with the columns prompt and completion, or messages. Raises `DataError` if both forms are there."""
        from datasets import Dataset

        columns = ("messages",) if self.rows and "messages" in self.rows[0] else ("prompt", "completion")
        for number, row in enumerate(self.rows, start=1):
            if columns[0] not in row:
                missing = f"row 1 has `{columns[0]}`, row {number} does not"
                raise DataError(f"{self.note}: {missing}; keep `messages` and `prompt`/`completion` in two files")
        return Dataset.from_list([{key: row[key] for key in columns} for row in self.rows])


def load_rows(
    path: str | Path, limit: int | None = None, need_completion: bool = True, data: DataConfig | None = None
) -> list[dict[str, Any]]:
    """Rows of a file or folder (`ssft.recipes.records`), the first `limit` of them, with the keys prompt, completion or
    messages, and references and category where given.

    `data` names columns as in a recipe; without it a row must have one of the known forms (`ssft.recipes.forms`). With
    `need_completion` a row needs a completion (or messages that end with the assistant's); without, a prompt is
    enough. Raises `DataError` that names file and line.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least one row is needed; leave the limit out to read all of {path}")
    found = islice(records(path), limit)
    rows = [to_row(record, where, data or DataConfig(), need_completion)[0] for where, record in found]
    if not rows:
        raise DataError(_empty(path))
    return rows


def load_row_pair(config: DataConfig, seed: int) -> tuple[Part, Part]:
    """Training and validation rows, with the references and categories that their files give.

    `seed` draws the held-back share, the rows kept by `max_*_rows`, the built-in rows, and the training rows that
    `augment` changes, with what stands in them then. Raises `DataError`.
    """
    config.check_data()
    source = config.validation or config.train
    train = _source(config.train, config.train_split, config, seed, "train")
    splits_exist = config.train == QUICKSTART or (_is_hub(config.train) and bool(config.validation_split))
    if source != config.train or splits_exist:
        validation = _source(source, config.validation_split or "validation", config, seed, "validation")
    else:
        train, validation = _hold_back(train, config, seed)
    if config.learned_turns == "all":  # only now, so that no chat lies in both parts
        train, validation = _each_turn(train), _each_turn(validation)
    train, validation = _capped(train, config, seed, "train"), _capped(validation, config, seed, "validation")
    return _augmented(train, config.augment, seed) if config.augment else train, validation


def _hold_back(part: Part, config: DataConfig, seed: int) -> tuple[Part, Part]:
    """The rows without the share of them that is held back, and that share."""
    total = len(part.rows)
    count = round(total * config.validation_fraction)
    if not 0 < count < total:
        raise DataError(
            f"data.train={config.train} has {total} rows: data.validation_fraction={config.validation_fraction} holds "
            f"{count} of them back, and both parts need one; give data.validation=FILE or change the fraction"
        )
    held = _sample(part.rows, count, seed)
    chosen = set(map(id, held))
    rest = [row for row in part.rows if id(row) not in chosen]
    how = f"data.validation_fraction={config.validation_fraction}"
    return (
        Part(rest, f"{part.note}, {count:,} of {total:,} rows held back for validation ({how})"),
        Part(held, f"{part.note}, held back from training ({how})"),
    )


def _capped(part: Part, config: DataConfig, seed: int, name: str) -> Part:
    """At most the rows that data.max_*_rows allows, drawn by the seed."""
    key, total = f"max_{name}_rows", len(part.rows)
    rows = _sample(part.rows, getattr(config, key), seed)
    of = (
        f"{len(rows):,} of {total:,} rows (data.{key}={len(rows)}; 0 takes all)"
        if len(rows) < total
        else f"{total:,} rows"
    )
    return Part(rows, f"{name}: {of} of {part.note}")


def _augmented(part: Part, share: float, seed: int) -> Part:
    """The rows with made-up names and numbers in a share of them; the note counts these and shows one."""
    rows, changed = rename_share(part.rows, share, seed)
    note = f"{part.note}, {len(changed):,} of them with made-up names and numbers (data.augment={share:g})"
    if changed:
        before, after = (shown(prompt_and_completion(of[changed[0]])[1]) for of in (part.rows, rows))
        note += f", such as {after} from {before}"
    return Part(rows, note)


def _source(source: str, split: str, config: DataConfig, seed: int, part: str) -> Part:
    """All rows of one source; `part` is train or validation."""
    if source == QUICKSTART:
        count = getattr(config, f"max_{part}_rows") or QUICKSTART_ROWS[part]
        return Part(quickstart_rows(count, seed, part), "the built-in data")
    if _is_hub(source):
        label, found = f"{source}, split {split}", _hub_records(source, split, config, part)
    else:
        label, found = source, records(Path(source))
    rows: list[dict[str, Any]] = []
    forms: Counter[str] = Counter()
    for where, record in found:
        row, form = to_row(record, where, config)
        rows.append(row)
        forms[form] += 1
    if not rows:
        hub = f"data.{part}={source}: split {split!r} has no rows; choose another split or a local file"
        raise DataError(hub if _is_hub(source) else _empty(Path(source)))
    told = [form if len(forms) == 1 else f"{form}: {count:,}" for form, count in forms.items()]
    return Part(rows, f"{label} ({'; '.join(told)})")


def _each_turn(part: Part) -> Part:
    """The chats as one row per message of the assistant's, which is the last of it; other rows as they are."""
    rows = []
    for row in part.rows:
        messages = row.get("messages", ())
        ends = [i for i, message in enumerate(messages, start=1) if i > 1 and message["role"] == "assistant"]
        rows += [{**row, "messages": messages[:end]} for end in ends] or [row]
    several = f", in {len(rows):,} rows of one answer each" if len(rows) > len(part.rows) else ""
    return Part(rows, f"{part.note}{several}")


def _empty(path: Path) -> str:
    return f"{path} is empty: it needs rows, such as one JSON object per line with `prompt` and `completion`"


def _is_hub(source: str) -> bool:
    """Whether `source` reads as owner/name[:config] and neither exists nor looks like a file."""
    repository, colon, config = source.partition(":")
    named = is_hub_id(repository) and bool(config) == bool(colon)
    return named and not os.path.exists(source) and not looks_like_file(source)


def _hub_records(source: str, split: str, config: DataConfig, part: str) -> Iterable[tuple[str, Any]]:
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
            f"data.{part}={source} (split {split!r}): {remedy}. {reason}. A local file does as well: data.{part}=FILE"
        ) from error
    # Training reads no category, and a column of that name may hold anything.
    unread = {"category": None} if "category" not in named_columns(config) else {}
    for number, row in enumerate(table, start=1):
        yield f"{source}, split {split}, row {number}", {**row, **unread}


def _sample(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows drawn by the seed, in their order; all of them for 0."""
    if not 0 < count < len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]
