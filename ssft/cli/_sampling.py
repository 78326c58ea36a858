"""The options that choose tokens: settings of `Sampling`, under its names and with its help."""

from __future__ import annotations

import functools
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ssft.cli._options import FILE, Decorator, together
from ssft.decoding.sampling import Sampling
from ssft.errors import ConfigError

FORMS = ("json_schema", "regex", "grammar")
"""What a text must look like; all but the regular expression are files."""
_WHOLE = ("top_k", "no_repeat_ngram_size", "min_new_tokens", "seed")
_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def sampling_options(*names: str) -> Decorator:
    """An option for each of these settings (default: all that need no tokenizer), as the one parameter `sampling`, a
    dict of those that were given; a wrong one is told before the command runs."""
    chosen = names or (*_NUMBERS, *_WHOLE, *FORMS)

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def collected(*args: Any, **options: Any) -> Any:
            given = {name: value for name in chosen if (value := options.pop(name)) is not None}
            Sampling(**given)
            return function(*args, sampling=given, **options)

        return together(*map(_option, chosen))(collected)

    return decorate


def form_of(sampling: dict[str, Any]) -> dict[str, str]:
    """What the texts must look like, of what `sampling_options` gave."""
    return {name: sampling[name] for name in FORMS if name in sampling}


def option_help(name: str) -> str:
    """The help of a setting as a sentence."""
    help_of = {f.name: str(f.metadata["help"]) for f in fields(Sampling)}
    return f"{help_of[name][0].upper()}{help_of[name][1:]}."


def _option(name: str) -> Decorator:
    how: dict[str, Any] = {"type": int if name in _WHOLE else float}
    if name == "regex":
        how = {"metavar": "TEXT"}
    elif name in FORMS:
        how = {"metavar": "FILE", "type": FILE, "callback": _text_of}
    return click.option(f"--{name.replace('_', '-')}", name, help=option_help(name), **how)


def _text_of(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{parameter.opts[0]} {path}: cannot be read as UTF-8 text ({error})") from error
