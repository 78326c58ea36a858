"""One reader from the values of JSON and YAML to what annotations ask for, with the place of a fault.

Types are strict: "5" is no number and true is none. Annotations are those of our dataclasses and of the libraries' own
(peft's LoraConfig, TRL's SFTConfig), whose keys are the keys of a recipe.
"""

import math
import operator
import os
import re
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING, field, fields, is_dataclass
from enum import Enum
from functools import cache, partial, reduce
from numbers import Integral
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from ssft.errors import ConfigError, SSFTError, nearest

MAX_SHOWN = 80
"""Characters of a value or key in a message; it may come from a stranger's file."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w", re.ASCII)


def is_hub_id(text: str) -> bool:
    """Whether a text has the form owner/name of the hub's repositories."""
    return _HUB_ID.fullmatch(text) is not None


def setting(default: Any, help: str) -> Any:
    """A dataclass field that is a key of a recipe: its default, and what it does, told to people."""
    return field(default=default, metadata={"help": help})


def read(hint: Any, value: Any, place: str) -> Any:
    """`value` as `hint` wants it; a dataclass is given as a dict of its fields, also in a list, a dict or `X | None`.

    `Annotated` may narrow a type by what pydantic knows, and name it: `Annotated[int, Field(gt=0), "a count"]`. Members
    of enums stay the strings that they are given as. Raises `ValueError` that names the place inside `place`, what
    stands there and what was expected.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return _read_fields(hint, value, place)
    if not _holds_dataclass(hint):  # at once, as a list may have a million numbers
        with suppress(ValidationError, PydanticSerializationError):
            return _adapter(hint).validate_json(to_json(value))
    if origin is Annotated and _holds_dataclass(hint):
        read(hint.copy_with((typing.get_origin(args[0]),)), value, place)
        return read(args[0], value, place)
    if origin is list and isinstance(value, list):
        return [read(args[0], item, f"{place}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: read(args[1], item, f"{place}[{shown(key)}]") for key, item in value.items()}
    if len(args) == 2 and args[1] is type(None) and (is_dataclass(args[0]) or isinstance(value, dict | list)):
        return None if value is None else read(args[0], value, place)
    raise ValueError(f"{place}={shown(value)}, expected {type_name(hint)}")


def check(hint: Any, value: Any, place: str, error: type[SSFTError] = ConfigError) -> Any:
    """`value` of Python as the annotation `hint` wants it, from callers instead of files: `InstanceOf[X]` fits, too.

    As strict as `read`; numpy's whole numbers count as Python's where `WHOLE` stands. Raises `error`, which names
    `place`, what stands there and what was expected.
    """
    try:
        return _python_adapter(hint).validate_python(value, strict=True)
    except ValidationError as found:
        raise error(f"{place}={shown(value)}, expected {type_name(hint)}") from found


def check_fields(config: Any, kind: type, place: str = "", error: type[SSFTError] = ConfigError) -> None:
    """Raise `error` for the first of the fields that the dataclass `kind` itself defines whose value in `config`, an
    instance, is of another type than its class annotates."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for name in kind.__annotations__:
        check(hints[name], getattr(config, name), _inside(place, name), error)


def _fit_for_a_file(value: Any) -> Any:
    try:
        fits = b"\0" not in os.fsencode(value)
    except (TypeError, UnicodeEncodeError):
        fits = False
    if not fits or isinstance(value, bytes):
        raise ValueError("no name")
    return value


PATH = Annotated[Any, AfterValidator(_fit_for_a_file), "a path or a name"]
"""What a file or a repository can be named: str or `os.PathLike`, without NUL and without halves of surrogate pairs."""


def _plain_int(value: Any) -> Any:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


WHOLE = BeforeValidator(_plain_int)
"""In `Annotated[int, WHOLE, ...]`: numpy's whole numbers are taken, too."""
POSITIVE = Annotated[int, WHOLE, Field(ge=1, lt=2**31), "a whole number from 1, below 2^31"]
FROM_ZERO = Annotated[int, WHOLE, Field(ge=0, lt=2**31), "a whole number from 0, below 2^31"]
NOT_NEGATIVE = Annotated[float, Field(ge=0, allow_inf_nan=False), "a number from 0"]
ABOVE_ZERO = Annotated[float, Field(gt=0, allow_inf_nan=False), "a number above 0"]
SHARE = Annotated[float, Field(ge=0, le=1), "a number from 0 to 1"]
DECAY = Annotated[float, Field(gt=0, le=1), "a number above 0, at most 1"]
BELOW_ONE = Annotated[float, Field(ge=0, lt=1), "a number from 0, below 1"]


def _holds_dataclass(hint: Any) -> bool:
    known = isinstance(hint, type) and is_dataclass(hint)  # metadata of `Annotated` may be an instance of one
    return known or any(map(_holds_dataclass, typing.get_args(hint)))


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place!r} is missing or no object")
    hints = typing.get_type_hints(kind, include_extras=True)
    for key in value:
        if key not in hints:
            name = key if str(key).isidentifier() and len(key) <= MAX_SHOWN else shown(key)
            hint = nearest(name, hints)
            raise ValueError(f"{_inside(place, name)} is unknown to this version of ssft{hint and f'; {hint}'}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{_inside(place, missing[0])} is missing")
    return kind(**{key: read(hints[key], item, _inside(place, key)) for key, item in value.items()})


def shown(value: Any) -> str:
    """A value or key for a message: printable, and cut to `MAX_SHOWN` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python's bound against long conversions
        text = (
            f"a number of some {round(math.log10(abs(value))):,} digits" if type(value) is int else type(value).__name__
        )
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _inside(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


@cache
def _python_adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_of_json(hint), config=ConfigDict(strict=True))


def _of_json(hint: Any) -> Any:
    """The annotation for pydantic: an enum's strings; nothing fits what no file can hold, such as a library's class."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return reduce(operator.or_, map(_of_json, _options(hint)))
    if origin is Literal or _is_enum(hint):
        return Annotated[Any, AfterValidator(partial(_check_choice, args or [member.value for member in hint]))]
    if origin is Annotated:
        return hint
    if origin in (list, dict, tuple):
        return origin[tuple(map(_of_json, args))]
    plain = (bool, int, float, str, list, dict, type(None), Any)
    return hint if any(hint is known for known in plain) else Annotated[Any, AfterValidator(partial(_check_choice, []))]


def _check_choice(choices: Sequence[Any], value: Any) -> Any:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    # peft writes a number to be filled in as [...] inside the choice
    if isinstance(value, str) and any("[" in str(c) and value.startswith(c.partition("[")[0]) for c in choices):
        return value
    raise ValueError(value)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _options(hint: Any) -> list[Any]:
    """Members of a union, plain str last; without it where an enum lists the strings that are valid."""
    # A fixed order: typing keeps one object for all unions of the same members, in the order that came first.
    last = (float, type(None), str)
    options = sorted(typing.get_args(hint), key=lambda option: (*(option is kind for kind in last[::-1]), str(option)))
    if any(map(_is_enum, options)):
        options.remove(str)
    return options


def type_name(hint: Any) -> str:
    """An annotation as text for people: `'first' | 'spaced'`, `int | none`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(option) for option in _options(hint))
    if origin is Literal or _is_enum(hint):
        return " | ".join(repr(value) for value in args or [member.value for member in hint])
    if origin is Annotated:
        return next((name for name in args[1:] if isinstance(name, str)), type_name(args[0]))
    if args:
        return f"{origin.__name__}[{', '.join(type_name(arg) for arg in args)}]"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))
