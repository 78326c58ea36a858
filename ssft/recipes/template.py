"""Templates: texts with {column} in them, filled from one row. Only whole columns: nothing is looked up or computed."""

import json
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from ssft.errors import ConfigError

_NAME = re.compile(r"[\w -]+")


def template_columns(template: str, key: str) -> list[str]:
    """The columns that a template names, in order; `key` is the setting it stands in, for the message.

    Raises `ConfigError` for one that is malformed or asks for more than a column.
    """
    return [name for _, name in _parts(template, key) if name is not None]


def fill(template: str, row: Mapping[str, Any], key: str) -> str:
    """The template with the row's columns in it; every column that it names must be there."""
    return "".join(text + ("" if name is None else as_text(row[name])) for text, name in _parts(template, key))


def as_text(value: Any) -> str:
    """A value of a row as text: a string as it is, numbers, truth values, lists and objects as JSON writes them."""
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _parts(template: str, key: str) -> list[tuple[str, str | None]]:
    """Pairs of a text and the column that follows it."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{key}={template!r}: {error}; write {{column}}, and {{{{ }}}} for literal braces") from error
    for _, name, form, conversion in parts:
        if name is not None and (form or conversion or not _NAME.fullmatch(name)):
            asked = "".join([name, f"!{conversion}" if conversion else "", f":{form}" if form else ""])
            raise ConfigError(f"{key}={template!r}: {{{asked}}} is no plain column name; write {{column}}")
    return [(text, name) for text, name, _, _ in parts]
