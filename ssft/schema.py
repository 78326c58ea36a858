"""Values checked against type annotations, and annotations as text for people."""

import types
import typing
from contextlib import suppress
from enum import Enum
from typing import Any, Literal, Union


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(option) for option in _options(hint))
    if origin is Literal or _is_enum(hint):
        return " | ".join(repr(value) for value in args or [member.value for member in hint])
    if args:
        return f"{origin.__name__}[{', '.join(type_name(arg) for arg in args)}]"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _options(hint: Any) -> list[Any]:
    """Members of a union, plain str last; without it where an enum lists the strings that are valid."""
    # A fixed order: typing keeps one object for all unions of the same members, in the order that came first.
    last = (float, type(None), str)
    options = sorted(typing.get_args(hint), key=lambda option: (*(option is kind for kind in last[::-1]), str(option)))
    if any(map(_is_enum, options)):
        options.remove(str)
    return options


def convert(value: Any, hint: Any) -> Any:
    """`value` as the annotation `hint` wants it; raises `ValueError` if it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        options = _options(hint)
        if type(None) in options and str not in options and isinstance(value, str) and value.lower() == "none":
            return None
        for option in options:
            with suppress(ValueError):
                return convert(value, option)
    elif hint is Any or (hint is type(None) and value is None):
        return value
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        # PEFT writes a number to be filled in as [...] inside the literal
        if isinstance(value, str) and any("[" in str(c) and value.startswith(c.partition("[")[0]) for c in args):
            return value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif (hint in (bool, int, str) and type(value) is hint) or (_is_enum(hint) and value in [m.value for m in hint]):
        return value
    elif (origin or hint) is list and isinstance(value, list):
        return [convert(item, args[0] if args else Any) for item in value]
    elif origin is tuple and isinstance(value, list) and len(value) == len(args):
        return tuple(convert(item, arg) for item, arg in zip(value, args, strict=True))
    elif (origin or hint) is dict and isinstance(value, dict):
        return {key: convert(item, args[1] if args else Any) for key, item in value.items()}
    raise ValueError(value)
