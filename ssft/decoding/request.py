"""`Request` and `Generation`: what one sequence asks for, and what it became."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssft.decoding.config import TreeConfig
from ssft.streams.modules import StreamModules

StopCheck = Callable[[list[int]], bool]
"""Called with the produced token ids after every new one; True ends the sequence there."""

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""transformers' contract: ids so far [1, t], scores [1, V] -> scores [1, V]."""


@dataclass
class Request:
    """One sequence to decode greedily, with its own limits, its own streams and its own adapter.

    prompt: token ids, at least one. max_new_tokens: cut to what the context has room for. eos_token_ids and
    stop_token_ids end the sequence and are its last token ("eos", "stop"). stop: see `StopCheck`; the token that
    completes a stop string is kept. processors: applied to the main stream's logits after every token, with that
    token's own path as history. streams None decodes plainly. adapter: what the engine's `route` knows it by.
    """

    prompt: list[int]
    max_new_tokens: int
    streams: StreamModules | None = None
    tree: TreeConfig = field(default_factory=TreeConfig)
    adapter: Any = None
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    stop: StopCheck | None = None
    processors: Sequence[LogitsProcessor] = ()

    @property
    def depth(self) -> int:
        """g: how many streams the draft uses, at most γ."""
        gamma = 0 if self.streams is None else self.streams.config.num_streams
        return min(gamma, self.tree.max_depth or gamma)


@dataclass
class Generation:
    """What one prompt became.

    token_ids: produced tokens, the EOS or stop token included if it came. calls: passes of the model, the prompt's
    included, so plain decoding has calls == len(token_ids). accepted: [depth] passes after the prompt's that accepted
    that deep (index 0: none). finish_reason: "eos", "stop" (a stop string or token), "length" or "cancelled"; empty
    while it runs. seconds: wall clock from the call until the row ended. prompt_seconds: until its first pass was
    done, which gave prompt_tokens tokens (one here; a method that drafts before its first pass has several).
    """

    token_ids: list[int] = field(default_factory=list)
    calls: int = 0
    accepted: list[int] = field(default_factory=list)
    finish_reason: str = ""
    seconds: float = 0.0
    prompt_seconds: float = 0.0
    prompt_tokens: int = 1
