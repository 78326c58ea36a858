"""The options that choose tokens: numbers of `Sampling`, under its names and with its help."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

import click

from ssft.cli._options import Decorator, together
from ssft.decoding.sampling import Sampling

_WHOLE = ("top_k", "no_repeat_ngram_size", "min_new_tokens", "seed")
_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def sampling_options(*names: str) -> Decorator:
    """An option for each of these settings (default: all that are a number), as the one parameter `sampling`, a dict
    of those that were given; a wrong one is told before the command runs."""
    chosen = names or (*_NUMBERS, *_WHOLE)
    help_of = {f.name: str(f.metadata["help"]) for f in fields(Sampling)}

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def collected(*args: Any, **options: Any) -> Any:
            given = {name: value for name in chosen if (value := options.pop(name)) is not None}
            Sampling(**given)
            return function(*args, sampling=given, **options)

        return together(
            *(
                click.option(
                    f"--{name.replace('_', '-')}",
                    name,
                    type=int if name in _WHOLE else float,
                    help=f"{help_of[name][0].upper()}{help_of[name][1:]}.",
                )
                for name in chosen
            )
        )(collected)

    return decorate
