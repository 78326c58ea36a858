"""Spec-Bench's questions (Xia et al. 2024, arXiv 2401.07851) as rows of prompts with categories.

Its file has one question a line: `question_id`, `category`, `turns` (the user's messages, two for MT-Bench's) and
sometimes `reference`, which speed does not need. Every turn is a prompt: all turns before it with their answers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from tqdm import tqdm

from ssft.bench.answers import encode_row
from ssft.errors import ConfigError, DataError
from ssft.recipes.records import json_lines
from ssft.schema import read

HINT = "give Spec-Bench's question.jsonl, one question per line; rows with `messages` or `prompt` go with --data FILE"
MULTI_TURN = "multi-turn conversation"
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
SINGLE_TASKS = ("translation", "summarization", "qa", "math_reasoning", "rag")

Text = Annotated[str, Field(pattern=r"\S"), "a text"]


@dataclass
class Question:
    """What counts of one line."""

    category: Text
    turns: Annotated[list[Text], Field(min_length=1), "a list of texts"]


def row_categories(rows: Sequence[dict[str, Any]]) -> list[str] | None:
    """Each row's category, "other" for a row without; None if no row has one.

    MT-Bench's eight become one where they stand beside Spec-Bench's other tasks: it has six, of which MT-Bench is one.
    Where none of the other five is there, or a name that Spec-Bench does not have, the names are the user's own.
    """
    if not any(row.get("category") for row in rows):
        return None
    names = [row.get("category") or "other" for row in rows]
    if not set(names) <= {*MT_BENCH, *SINGLE_TASKS, MULTI_TURN} or not set(names) & set(SINGLE_TASKS):
        return names
    return [MULTI_TURN if name in MT_BENCH else name for name in names]


def spec_bench_rows(
    path: str | Path, adapted: Any, max_new_tokens: int, limit: int | None = None
) -> list[dict[str, Any]]:
    """Rows with `messages` and `category` from Spec-Bench's question.jsonl (or .jsonl.gz), one per turn.

    The answers that later turns follow are those of plain decoding, at most `max_new_tokens` long, made here once: so
    all methods get the same prompts.

    Args:
        adapted: the `MultiAdapterModel`; its tokenizer needs a chat template.
        limit: the first so many questions of each of the file's own categories, of which Spec-Bench has 13 (MT-Bench's
            eight among them, which become one here only afterwards); without it all.

    Raises:
        DataError: a file that cannot be read, a line that is no question, a prompt that leaves the answer no room.
        ConfigError: the base has no chat template.
    """
    path = Path(path)
    if not getattr(adapted.tokenizer, "chat_template", None):
        raise ConfigError(
            f"{path} holds conversations, but the tokenizer under {adapted.active.name!r} has no chat template; take a "
            "base with one, or prompts of your own (--data FILE)"
        )
    taken: Counter[str] = Counter()
    questions = []
    for where, value in json_lines(path, HINT):
        known = {f.name: value[f.name] for f in fields(Question) if f.name in value} if isinstance(value, dict) else {}
        try:
            question = read(Question, known, "")
        except ValueError as error:
            raise DataError(f"{where}: {error}; {HINT}") from error
        taken[question.category] += 1
        if limit is None or taken[question.category] <= limit:
            questions.append((where, question))
    if not questions:
        raise DataError(f"{path} is empty: {HINT}")
    rows: list[dict[str, Any]] = []
    for where, question in tqdm(questions, desc="first turns", unit="question", delay=2, disable=None, leave=False):
        category = MULTI_TURN if question.category in MT_BENCH else question.category
        messages: list[dict[str, str]] = []
        for number, turn in enumerate(question.turns, start=1):
            messages = [*messages, {"role": "user", "content": turn}]
            rows.append({"messages": messages, "category": category})
            prompt = encode_row(adapted, rows[-1], f"{where}, turn {number}")
            if number < len(question.turns):
                (answer,) = adapted.complete([prompt], max_new_tokens=max_new_tokens, speculate=False)
                messages = [*messages, {"role": "assistant", "content": adapted.decode(answer.token_ids)}]
    return rows
