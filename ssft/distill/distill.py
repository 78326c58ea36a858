"""A file of training rows from a model: batch after batch, written as they come, resumable."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ssft.base.chat import prompt_messages
from ssft.distill.questions import Asked
from ssft.distill.row_file import RowFile
from ssft.distill.talk import NEAR_DUPLICATE, Row, Talk, Talker
from ssft.errors import DataError

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel

MOST_TRIES = 20
"""Questions that are tried for each one that is wanted, at most."""


@dataclass
class Distilled:
    """What one call did. rows: all that the file holds now; before: those that it held already. whole: nothing is left
    to do. left_out: numbers of this call by the reason, left_out_before: those of earlier calls."""

    rows: int
    before: int
    whole: bool
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_before: int = 0
    tokens: int = 0
    calls: int = 0

    def sentence(self) -> str:
        """The same for people."""
        parts = [f"{self.rows:,} rows" + (f", {self.before:,} of them from earlier calls" if self.before else "")]
        if self.calls:
            per_call = self.tokens / self.calls
            parts.append(f"{self.tokens:,} tokens in {self.calls:,} calls, {per_call:.2f} tokens per call")
        if self.left_out:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.left_out.most_common())
            parts.append(f"{self.left_out.total():,} left out: {reasons}")
        if self.left_out_before:
            parts.append(f"{self.left_out_before:,} were left out in earlier calls")
        return "; ".join(parts)


def unique_starts(rows: Sequence[Row], turns: int) -> list[Row]:
    """The prompts of rows, each once and without its completion, in order.

    Raises:
        DataError: there are to be several turns, and a row is no chat.
    """
    first: dict[str, Row] = {}
    for number, row in enumerate(rows, start=1):
        if "messages" in row:
            start: Row = {"messages": prompt_messages(row["messages"])}
        elif turns > 1:
            raise DataError(f"row {number} has `prompt`, which has one turn, and --turns is {turns}; give `messages`")
        else:
            start = {"prompt": row["prompt"]}
        first.setdefault(repr(start), start)
    return list(first.values())


def distill(
    adapted: "MultiAdapterModel",
    output: Path,
    how: Talk,
    *,
    starts: Sequence[Row] | None = None,
    questions: int = 0,
    batch_size: int = 8,
    until: float | None = None,
    progress: bool = True,
) -> Distilled:
    """Write a row for each of `starts`, or for `questions` questions of the model's own, to `output`; go on with an
    earlier call's file.

    A row has `messages`, or `prompt` and `completion` where its start is a `prompt`; its number as `row`, from 0, and,
    where something was drawn, its `seed`. In float32 it does not depend on the batch. In lower precision a file that
    was gone on with is the undisturbed one's for the same `batch_size`, since batches begin at the same rows.

    Args:
        starts: prompts, from `unique_starts`; without them the model asks itself, until `questions` rows are there or
            `MOST_TRIES` times so many were tried.
        until: the time, by `time.monotonic`, from which on no further batch begins; one is done in any case.

    Raises:
        ConfigError: `output` was begun with other settings, or by another program.
        DataError: a line of `output` has another prompt than `starts`.
    """
    drawn = bool(how.answers) or starts is None or how.turns > 1
    settings = {**asdict(how), "asks": starts is None, **_identity(adapted)}
    file = RowFile(output, settings)
    before, done = len(file.rows), file.done
    asked = Asked()
    for line, row in enumerate(file.rows, start=1):
        if starts is None:
            asked.add(_first_question(row, f"{output}, line {line}"))
        else:
            _check_start(row, starts, f"{output}, line {line}")
    wanted = questions if starts is None else len(starts)
    total = questions * MOST_TRIES if starts is None else len(starts)
    talker, left_out = Talker(adapted, how), Counter[str]()
    with tqdm(total=wanted, unit="row", delay=2, disable=None if progress else True, leave=False) as bar:
        bar.update(before if starts is None else done)
        begin = done // batch_size * batch_size
        first = begin
        while begin < total and len(file.rows) < wanted:
            if until is not None and begin > first and time.monotonic() >= until:
                break
            numbers = range(begin, min(begin + batch_size, total))
            batch = [{"messages": []} for _ in numbers] if starts is None else [starts[i] for i in numbers]
            fresh: list[Row] = []
            for number, found in zip(numbers, talker.rows(batch, numbers, asked.knows), strict=True):
                if number < done or len(file.rows) + len(fresh) == wanted:
                    continue
                if isinstance(found, dict) and starts is None:
                    question = _first_question(found, "")
                    if asked.knows(question):
                        found = NEAR_DUPLICATE
                    else:
                        asked.add(question)
                if isinstance(found, str):
                    left_out[found] += 1
                else:
                    fresh.append({**found, "row": number, **({"seed": how.seed + number} if drawn else {})})
            file.append(fresh)
            bar.update(len(fresh) if starts is None else numbers[-1] + 1 - max(begin, done))
            begin = numbers[-1] + 1
    return Distilled(
        rows=len(file.rows),
        before=before,
        whole=begin >= total or len(file.rows) >= wanted,
        left_out=left_out,
        left_out_before=done - before,
        tokens=talker.tokens,
        calls=talker.calls,
    )


def _identity(adapted: "MultiAdapterModel") -> dict[str, Any]:
    """Whose rows they are."""
    bundle = adapted.active.bundle
    return {
        "base": adapted.bank.fingerprint,
        "adapter": None if bundle is None else bundle.weights_sha256,
        "precision": adapted.precision,
    }


def _first_question(row: Row, where: str) -> str:
    """What the user said first in a row of the model's own."""
    said = [m["content"] for m in row.get("messages", []) if m["role"] == "user"]
    if not said:
        raise DataError(f"{where}: no question stands there; move the file away, or give another --output")
    return str(said[0])


def _check_start(row: Row, starts: Sequence[Row], where: str) -> None:
    """Raise `DataError` unless a row of the file answers the prompt of its number."""
    number = row["row"]
    start: Row = starts[number] if number < len(starts) else {}
    key = "messages" if "messages" in start else "prompt"
    found = row.get(key)
    if (
        not start
        or (found[: len(start[key])] if key == "messages" and isinstance(found, list) else found) != start[key]
    ):
        raise DataError(
            f"{where}: its prompt is not prompt {number + 1} of the {len(starts)} given now; go on with the same "
            "prompts (more may stand behind them), or give another --output"
        )
