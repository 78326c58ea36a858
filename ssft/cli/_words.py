"""The options that name words: `--bad-words` and `--sequence-bias`, whose token ids are the tokenizer's to say."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import click

from ssft.cli._options import Decorator, together


@dataclass(frozen=True)
class Words:
    """Words that never come, and (word, what is added to its last token's logit) pairs."""

    bad: tuple[str, ...]
    biased: tuple[tuple[str, float], ...]

    def settings(self, tokenizer: Any) -> dict[str, Any]:
        """`bad_words_ids` and `sequence_bias` of `Sampling`, where words were given. A word counts with a space before
        it and without one."""
        bad = [ids for word in self.bad for ids in _spellings(word, tokenizer)]
        biased = {tuple(ids): bias for word, bias in self.biased for ids in _spellings(word, tokenizer)}
        return {**({"bad_words_ids": bad} if bad else {}), **({"sequence_bias": biased} if biased else {})}


def words_options() -> Decorator:
    """Both options, as the one parameter `words`."""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def collected(*args: Any, bad_words: tuple[str, ...], sequence_bias: Any, **options: Any) -> Any:
            if "" in bad_words:
                raise click.UsageError("--bad-words is empty; give the word that is never to come")
            return function(*args, words=Words(bad_words, sequence_bias), **options)

        return together(
            click.option(
                "--bad-words",
                metavar="TEXT",
                multiple=True,
                help="Never write this, as the tokenizer spells it, with a space before it or without. It can be "
                "repeated.",
            ),
            click.option(
                "--sequence-bias",
                metavar="TEXT=NUMBER",
                multiple=True,
                callback=_parsed,
                help="Add the number to the logit of the last token of this text, spelt as for --bad-words, where the "
                "rest stands already. It can be repeated.",
            ),
        )(collected)

    return decorate


def _parsed(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    found = []
    for value in values:
        text, _, number = value.rpartition("=")
        try:
            bias = float(number)
        except ValueError:
            bias = math.nan
        if not text or not math.isfinite(bias):
            raise click.UsageError(f"--sequence-bias {value[:60]!r}: write TEXT=NUMBER, such as 'word=-2.5'")
        found.append((text, bias))
    return tuple(found)


def _spellings(word: str, tokenizer: Any) -> list[list[int]]:
    """Token ids of a word at the beginning of a text and inside one, each once."""
    spelt = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (word, f" {word}")]
    return [ids for i, ids in enumerate(spelt) if ids and ids not in spelt[:i]]
