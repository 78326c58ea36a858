"""Names that nobody has seen: rows whose names and numbers are replaced by made-up ones, the same in prompt and answer.

Where training rows share a handful of names, streams learn these by heart instead of learning to copy from the prompt.
What is replaced are *slots*, words that an answer takes from its prompt. Which these are is counted over all rows, so
that nothing has to be known of the task:

- the word stands in the prompt and in the completion of the row; an identifier such as `table_2` is one word;
- it is a number of two digits or more, or a name, which all prompts together write more often with a capital inside a
  sentence than without;
- it is no word of the template, which half of the prompts have;
- a name is nothing that completions say of themselves, such as `The` or SQL's MAX: nine of ten completions that have it
  have it from their prompts.

A made-up word keeps the capitals of the one that it replaces, a number its length; in one row the same word always
becomes the same.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

WORD = re.compile(r"\w+")
NUMBER = re.compile(r"[0-9]{2,}")
SENTENCE_START = re.compile(r"(?:^|[.!?:\n])[\s\"'“‘(#*-]*$")
TEMPLATE = 0.5
"""A word of the template stands in this share of the prompts, or more."""
COPIED = 0.9
"""Of the completions that have a name, this share or more have it from their prompts."""
TRIES = 20
LONG = 9
"""Letters from which on a made-up name has three syllables."""
ONSETS = [*"bcdfghjklmnprstvwyz", "br", "ch", "cr", "dr", "fl", "gr", "kl", "pr", "sh", "st", "th", "tr"]
VOWELS = [*"aaeeiioou", "ai", "ea", "ou"]
CODAS = ["", "", "l", "m", "n", "nd", "r", "rn", "s", "sk", "t", "th", "x"]

Row = dict[str, Any]


@dataclass
class Slots:
    """What was counted over the rows: words that may be replaced, and all words that there are, in lower case."""

    names: set[str]
    of_template: set[str]
    known: set[str]

    def of_row(self, row: Row) -> list[str]:
        """The slots of a row in lower case, in the order of its prompt."""
        prompt, completion = prompt_and_completion(row)
        copied = set(_words(completion))
        found = (word for word in dict.fromkeys(_words(prompt)) if word in copied and word not in self.of_template)
        return [word for word in found if word in self.names or NUMBER.fullmatch(word)]


def count_slots(rows: Sequence[Row], others: Iterable[Row] = ()) -> Slots:
    """Slots of `rows`, counted over these; made-up words will be none of those of `others` either."""
    inside, small, prompts, answers, copies = (Counter[str]() for _ in range(5))
    known: set[str] = set()
    for row in rows:
        prompt, completion = prompt_and_completion(row)
        for match in WORD.finditer(prompt):
            word = match[0]
            if word[0].islower():
                small[word.casefold()] += 1
            elif word[0].isupper() and not SENTENCE_START.search(prompt, max(match.start() - 8, 0), match.start()):
                inside[word.casefold()] += 1
        asked, said = set(_words(prompt)), set(_words(completion))
        prompts.update(asked)
        answers.update(said)
        copies.update(said & asked)
        known.update(*map(_words, _texts(row)))
    known.update(word for row in others for text in _texts(row) for word in _words(text))
    of_template = {word for word, count in prompts.items() if count > 1 and count >= TEMPLATE * len(rows)}
    names = {
        word
        for word, count in inside.items()
        if len(word) > 1 and word.isalpha() and count > small[word] and copies[word] >= COPIED * answers[word] > 0
    }
    return Slots(names, of_template, known)


def rename(row: Row, slots: Slots, rng: random.Random) -> Row:
    """A copy of a row with made-up words in its slots, in all its texts; the row itself where it has none."""
    found = slots.of_row(row)
    if not found:
        return row
    new: dict[str, str] = {}
    own = {word for text in _texts(row) for word in _words(text)}
    for word in found:
        new[word] = _made_up(word, own.union(new.values()), slots.known, rng)

    def replace(text: str) -> str:
        return WORD.sub(lambda match: _with_capitals(match[0], new.get(match[0].casefold())), text)

    renamed = deepcopy(row)
    for key in ("prompt", "completion"):
        if key in row:
            renamed[key] = replace(row[key])
    if "references" in row:
        renamed["references"] = [replace(text) for text in row["references"]]
    for message in renamed.get("messages", ()):
        message["content"] = replace(message["content"])
    return renamed


def rename_share(
    rows: Sequence[Row], share: float, seed: int, others: Iterable[Row] = ()
) -> tuple[list[Row], list[int]]:
    """The rows, of which about `share` are renamed, and the indexes of those that are.

    What becomes of a row depends on the seed and its place alone, so that a run that goes on has the rows it had.
    """
    slots = count_slots(rows, others)
    out, changed = [], []
    for index, row in enumerate(rows):
        rng = random.Random(f"{seed}, row {index}")
        new = rename(row, slots, rng) if rng.random() < share else row
        changed += [index] * (new is not row)
        out.append(new)
    return out, changed


def prompt_and_completion(row: Row) -> tuple[str, str]:
    """The texts in which slots are looked for; the prompt of a chat are all its messages but the last answer."""
    if "messages" not in row:
        return row["prompt"], row.get("completion", "")
    texts = [message["content"] for message in row["messages"]]
    answered = row["messages"][-1]["role"] == "assistant"
    return "\n".join(texts[: len(texts) - answered]), texts[-1] if answered else ""


def _texts(row: Row) -> Iterable[str]:
    yield from prompt_and_completion(row)
    yield from row.get("references", ())


def _words(text: str) -> Iterable[str]:
    return (match[0].casefold() for match in WORD.finditer(text))


def _made_up(word: str, own: set[str], known: set[str], rng: random.Random) -> str:
    """A name or a number for `word` that the row has not, and no other row either, unless all short numbers are used
    somewhere."""
    make = _number if NUMBER.fullmatch(word) else _name
    made = [new for new in (make(word, rng) for _ in range(TRIES)) if new not in own]
    return next((new for new in made if new not in known), made[0] if made else word)


def _name(word: str, rng: random.Random) -> str:
    syllables = 2 if len(word) < LONG else 3
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)) + rng.choice(CODAS)


def _number(word: str, rng: random.Random) -> str:
    first = "0" if word[0] == "0" else rng.choice("123456789")
    return first + "".join(rng.choice("0123456789") for _ in word[1:])


def _with_capitals(word: str, new: str | None) -> str:
    """`new` written as the word is; the word itself where there is nothing new."""
    if new is None:
        return word
    if word.isupper() and len(word) > 1:
        return new.upper()
    return new.capitalize() if word[0].isupper() else new
