"""Spec-Bench's questions (Xia et al. 2024, arXiv 2401.07851) as rows of prompts with categories.

Its file has one question a line: `question_id`, `category`, `turns` (the user's messages, two for MT-Bench's) and
sometimes `reference`, which speed does not need. Every turn is a prompt: all turns before it with their answers.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssft.errors import ConfigError, DataError
from ssft.recipes.data import json_lines

MULTI_TURN = "multi-turn conversation"
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
SINGLE_TASKS = ("translation", "summarization", "qa", "math_reasoning", "rag")


def task_categories(names: Sequence[str]) -> list[str]:
    """Categories of rows, MT-Bench's eight made one where they stand beside Spec-Bench's other tasks.

    Spec-Bench has six tasks, and MT-Bench is one of them. Where none of the other five is there, or a name that
    Spec-Bench does not have, the names are the user's own and stay.
    """
    known = set(names) <= {*MT_BENCH, *SINGLE_TASKS, MULTI_TURN}
    if not known or not set(names) & set(SINGLE_TASKS):
        return list(names)
    return [MULTI_TURN if name in MT_BENCH else name for name in names]


def row_categories(rows: Sequence[dict[str, Any]]) -> list[str] | None:
    """Each row's category as Spec-Bench groups them (`task_categories`), "other" for a row without; None if no row has
    one."""
    if not any(row.get("category") for row in rows):
        return None
    return task_categories([row.get("category") or "other" for row in rows])


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
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least one question is needed; leave the limit out to take all of {path}")
    if not getattr(adapted.tokenizer, "chat_template", None):
        raise ConfigError(
            f"{path} holds conversations, but the tokenizer under {adapted.active.name!r} has no chat template; take a "
            "base with one, or prompts of your own (--data FILE)"
        )
    taken: Counter[str] = Counter()
    questions = []
    for where, value in json_lines(path, "give Spec-Bench's question.jsonl"):
        category, turns = _check_question(value, where)
        taken[category] += 1
        if limit is None or taken[category] <= limit:
            questions.append((where, category, turns))
    if not questions:
        raise DataError(f"{path} is empty: give Spec-Bench's question.jsonl, one question per line")
    rows: list[dict[str, Any]] = []
    bar = tqdm(questions, desc="first turns", unit="question", delay=2, disable=None, leave=False)
    for where, category, turns in bar:
        rows += _rows(adapted, where, MULTI_TURN if category in MT_BENCH else category, turns, max_new_tokens)
    return rows


def _check_question(value: Any, where: str) -> tuple[str, list[str]]:
    """Category, by the file's own name, and turns of one line."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with `category` and `turns`, got {type(value).__name__}")
    category, turns = value.get("category"), value.get("turns")
    if not isinstance(category, str) or not category.strip():
        raise DataError(
            f"{where}: `category` must be a name, got {category!r:.40}; is this Spec-Bench's question.jsonl?"
        )
    if not isinstance(turns, list) or not turns:
        hint = "; rows with `messages` or `prompt` go with --data FILE" if {"messages", "prompt"} & set(value) else ""
        raise DataError(f"{where}: `turns` must be a list of at least one text, got {turns!r:.40}{hint}")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, str) or not turn.strip():
            raise DataError(f"{where}: turn {number} must be a text, got {turn!r:.40}; fill it, or remove the question")
    return category, turns


def _rows(adapted: Any, where: str, category: str, turns: list[str], max_new_tokens: int) -> list[dict[str, Any]]:
    """A row per turn of one question."""
    context = adapted.hooks.backbone.context_length
    rows: list[dict[str, Any]] = []
    messages: list[dict[str, str]] = []
    for number, turn in enumerate(turns, start=1):
        messages = [*messages, {"role": "user", "content": turn}]
        row = {"messages": messages, "category": category}
        prompt = adapted.encode(row)
        if len(prompt) >= context:
            raise DataError(
                f"{where}: the prompt of turn {number} has {len(prompt)} tokens; the base's context holds {context}, "
                "the answer included; remove the question, or take a base with a longer context"
            )
        rows.append(row)
        if number < len(turns):
            (answer,) = adapted.complete([prompt], max_new_tokens=max_new_tokens, speculate=False)
            messages = [*messages, {"role": "assistant", "content": adapted.decode(answer.token_ids)}]
    return rows
