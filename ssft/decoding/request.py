"""`Request` and `Generation`: what one sequence asks for, and what it became."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ssft.decoding.config import TreeConfig
from ssft.streams.modules import StreamModules

if TYPE_CHECKING:
    from ssft.decoding.draft.drafter import Drafter

StopCheck = Callable[[list[int]], bool]
"""Called with the produced token ids after every new one; True ends the sequence there."""

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""transformers' contract: ids so far [1, t], scores [1, V] -> scores [1, V]."""


@dataclass
class Request:
    """One sequence to decode greedily, with its own limits, its own drafter and its own adapter.

    prompt: token ids, at least one. max_new_tokens: cut to what the context has room for. eos_token_ids and
    stop_token_ids end the sequence and are its last token ("eos", "stop"). stop: see `StopCheck`; the token that
    completes a stop string is kept. processors: applied to the main stream's logits after every token, with that
    token's own path as history. drafter: who proposes tokens (`draft/`); None decodes plainly. adapter: whose LoRA the
    row runs with, as the router knows it (`Pass.adapters`); None: nobody's.
    """

    prompt: list[int]
    max_new_tokens: int
    drafter: "Drafter | None" = None
    tree: TreeConfig = field(default_factory=TreeConfig)
    adapter: Any = None
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    stop: StopCheck | None = None
    processors: Sequence[LogitsProcessor] = ()

    @property
    def depth(self) -> int:
        """g: how many tokens ahead the draft uses, at most the drafter's reach."""
        reach = 0 if self.drafter is None else self.drafter.reach
        return min(reach, self.tree.max_depth or reach)

    @property
    def streams(self) -> StreamModules | None:
        """The stream parameters that a pass carries for this row; None where its draft needs none."""
        return None if self.drafter is None else self.drafter.streams

    @property
    def stream_depth(self) -> int:
        """Streams that the row uses of each node: g, or 0 where it has none."""
        return 0 if self.streams is None else self.depth


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
