"""The decoding methods that `ssft bench` compares: every file here is one, found on disk.

A method's name on the command line and in results is its file's. Its module holds `class Method`, a `DecodingMethod`.
Files that start with `_` are helpers.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ssft.decoding.request import Generation
from ssft.errors import ConfigError, GenerationError, nearest

REFERENCE = "plain"
"""The method whose text is the reference, and which always runs."""

ALL = "all"
"""In place of methods' names: every method that can run."""
YARDSTICK = "yardstick"
KINDS = ("plain", "speculative", YARDSTICK)


@dataclass(frozen=True)
class Setting:
    """What a method gets to work with.

    adapted: the `MultiAdapterModel`, whose active adapter decodes. max_new_tokens: longest completion. batch_size: most
    prompts at a time. peers: folder with what was trained for other methods beside this adapter (`medusa/`, `draft/`),
    or None. sampling: how tokens are chosen, as `MultiAdapterModel.complete` takes it; empty is greedy.
    """

    adapted: Any
    max_new_tokens: int
    batch_size: int = 1
    peers: Path | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


class DecodingMethod(ABC):
    """What a method's `Method` class is; `__init__` raises an `SSFTError` where the method cannot serve.

    DESCRIPTION: one line. KIND: "plain" (one token per pass), "speculative" (drafts and verifies), or "yardstick"
    (another program on another build of the base: its tokens per second are shown, its text is compared with nothing).
    LOSSLESS: whether it promises the tokens of plain decoding. SINGLE: whether it decodes one prompt at a time only.
    SAMPLES: whether it can draw tokens, and write texts of a form. extra_parameters, extra_bytes: what it needs beside
    base and LoRA, in memory and on disk. training: what was trained for it: `data` (name), `rows`, `steps`, `seconds`,
    `device` as its provenance has them.
    """

    DESCRIPTION: str
    KIND: str
    LOSSLESS = True
    SINGLE = False
    SAMPLES = False
    extra_parameters = 0
    extra_bytes = 0
    training: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, setting: Setting) -> None:
        self.name = type(self).__module__.rpartition(".")[2]
        if self.SINGLE and setting.batch_size != 1:
            raise ConfigError(
                f"batch size {setting.batch_size}: {self.name} decodes one prompt at a time; take --batch-size 1, or "
                f"leave {self.name} out of --methods"
            )
        if setting.sampling and not self.SAMPLES:
            raise ConfigError(
                f"{self.name} decodes greedily here and cannot draw tokens or keep a form; leave it out of --methods, "
                f"or leave {' and '.join(setting.sampling)} out"
            )
        self.sampling = setting.sampling
        self.adapted = setting.adapted
        self.backbone = self.adapted.hooks.backbone
        self.max_new_tokens = setting.max_new_tokens
        self.batch_size = setting.batch_size

    @abstractmethod
    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Continuation of each prompt (token ids), in order, `calls` being passes of the adapted model."""

    def budget(self, prompt: list[int]) -> int:
        """How many tokens may follow a prompt: `max_new_tokens`, or fewer where the model's context has no room for
        them; raises `GenerationError` where it has room for none."""
        context = self.backbone.context_length
        if not 0 < len(prompt) < context:
            raise GenerationError(
                f"a prompt has {len(prompt)} tokens; it needs at least one and fewer than the model's context of "
                f"{context}; fill or shorten it, or take a base with a longer context"
            )
        return min(self.max_new_tokens, context - len(prompt))


def method_names() -> list[str]:
    """Names of all methods, the reference first."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")}
    return [REFERENCE, *sorted(names - {REFERENCE})]


def method_module(name: str) -> Any:
    """The module of one method; raises `ConfigError` with the nearest name if there is none."""
    if name not in method_names():
        hint = nearest(name, method_names()) or f"methods are {', '.join(method_names())}"
        raise ConfigError(f"method {name!r} is unknown; {hint}")
    return importlib.import_module(f"{__name__}.{name}")


def parse_methods(text: str) -> list[str] | None:
    """`"generate,streaming"` -> checked names without repetition, the reference always first; `"all"` -> None."""
    given = [name.strip() for name in text.split(",") if name.strip()]
    if given == [ALL]:
        return None
    if ALL in given:
        raise ConfigError(f"--methods {text}: all stands alone; leave it out, or the other names")
    if not given:
        raise ConfigError(f"no method was named; give some of {', '.join(method_names())}, separated by commas")
    for name in given:
        method_module(name)
    return list(dict.fromkeys([REFERENCE, *given]))


def build_methods(names: Sequence[str], setting: Setting) -> dict[str, Any]:
    """Name -> method ready to run, in the order of `names`."""
    return {name: method_module(name).Method(setting) for name in names}
