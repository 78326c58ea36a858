"""Rows that are longer than a base or a run can read: left out, cut, or refused (`data.long_rows`)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from ssft.base.chat import completion_of, render_prompt
from ssft.errors import DataError

LENGTH_BATCH = 256  # rows per tokenizer call


def fit_lengths(
    rows: Sequence[dict[str, Any]], tokenizer: Any, limit: int, long_rows: str, part: str
) -> tuple[list[dict[str, Any]], str]:
    """The rows of `part` (train or validation) that fit into `limit` tokens, or are to be cut to it; and what became of
    the others, in words, empty where there are none.

    Counted are prompt, completion and the end-of-sequence token; a row without completion by its prompt. A row whose
    prompt leaves no room for a token of its completion is left out where others are cut. Raises `DataError` if
    `long_rows` is error and a row is too long, or if no row is left.
    """
    kept, dropped, cut = [], 0, 0
    for number, (row, (prompt, tail)) in enumerate(zip(rows, _lengths(rows, tokenizer), strict=True), start=1):
        if prompt + tail <= limit:
            kept.append(row)
        elif long_rows == "error":
            raise DataError(
                f"data.{part}, row {number}: prompt and completion have {prompt} + {tail} tokens, and {limit} fit; "
                "shorten or remove it, set data.long_rows=drop or cut, or raise training.max_length as far as the "
                "base's context allows (base=… for a longer one)"
            )
        elif long_rows == "cut" and prompt < limit:
            kept.append(row)
            cut += 1
        else:
            dropped += 1
    if rows and not kept:
        raise DataError(
            f"data.{part}: none of {len(rows):,} rows fits into {limit} tokens; raise training.max_length as far as "
            "the base's context allows (base=… for a longer one), shorten the prompts, or set data.long_rows=cut"
        )
    done = [f"{count:,} {what}" for count, what in ((dropped, "left out"), (cut, "cut")) if count]
    return kept, f"longer than {limit:,} tokens: {', '.join(done)} (data.long_rows={long_rows})" if done else ""


def _lengths(rows: Sequence[dict[str, Any]], tokenizer: Any) -> Iterator[tuple[int, int]]:
    """Tokens of each row's prompt, and of its completion with the end of sequence."""
    left = iter(rows)
    while batch := list(islice(left, LENGTH_BATCH)):
        # one tokenizer call per side: fast tokenizers work on lists in parallel
        texts = [render_prompt(row, tokenizer) for row in batch], [completion_of(row) for row in batch]
        prompts, completions = (tokenizer(side, add_special_tokens=False)["input_ids"] for side in texts)
        for prompt, completion in zip(prompts, completions, strict=True):
            yield len(prompt), len(completion) + 1 if completion else 0
