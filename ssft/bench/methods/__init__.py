"""The decoding methods that `ssft bench` compares: every file here is one, found on disk.

A method's module holds

- `NAME`: its name on the command line and in results,
- `DESCRIPTION`: one line,
- `LOSSLESS`: whether it promises the tokens of plain greedy decoding,
- `class Method` with `__init__(adapted, max_new_tokens, batch_size)`, `run(prompts) -> list[Generation]` (greedy, in
  the prompts' order) and `extra_parameters() -> int` (beside base and LoRA).

`Method.__init__` raises `GenerationError` where the adapter cannot serve the method.
"""

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ssft.decoding.request import Generation
from ssft.errors import ConfigError

BASELINE = "plain"
"""The method that every speed-up is measured against."""


class DecodingMethod(Protocol):
    """What a method's `Method` class offers."""

    def __init__(self, adapted: Any, max_new_tokens: int, batch_size: int) -> None: ...

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Greedy continuation of each prompt (token ids), in order."""

    def extra_parameters(self) -> int:
        """Parameters that the method needs beside base and LoRA."""


def method_names() -> list[str]:
    """Names of all methods, the baseline first."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    return [BASELINE, *sorted(names - {BASELINE})]


def method_module(name: str) -> Any:
    """The module of one method; raises `ConfigError` with the nearest name if there is none."""
    if name not in method_names():
        close = difflib.get_close_matches(name, method_names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"method {name!r} is unknown: {hint}Methods are {', '.join(method_names())}")
    return importlib.import_module(f"{__name__}.{name}")


def parse_methods(text: str) -> list[str]:
    """`"generate,streaming"` -> checked names without repetition, the baseline always first."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    if not given:
        raise ConfigError(f"no method was named; give some of {', '.join(method_names())}, separated by commas")
    for name in given:
        method_module(name)
    return list(dict.fromkeys([BASELINE, *given]))


def build_methods(names: Sequence[str], adapted: Any, max_new_tokens: int, batch_size: int) -> dict[str, Any]:
    """Name -> method ready to run, in the order of `names`."""
    return {name: method_module(name).Method(adapted, max_new_tokens, batch_size) for name in names}
