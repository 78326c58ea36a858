"""`Request` and `Generation`: what one sequence asks for, and what it became."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import InstanceOf
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper

from ssft.decoding.config import TreeConfig
from ssft.decoding.grammar.engine import Grammar
from ssft.errors import GenerationError
from ssft.schema import WHOLE, check, shown
from ssft.streams.modules import StreamModules

if TYPE_CHECKING:
    from ssft.decoding.draft.drafter import Drafter

StopCheck = Callable[[list[int]], bool]
"""Called with the produced token ids after every new one; True ends the sequence there."""

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""transformers' contract: ids so far [1, t], scores [1, V] -> scores [1, V]."""


_IDS = Annotated[list[int] | tuple[int, ...], "a list of token ids"]
_ID_SET = Annotated[frozenset[int] | set[int], "a set of token ids"]
_CALLABLES = Annotated[list[Callable[..., Any]] | tuple[Callable[..., Any], ...], "a list of logits processors"]
_TYPES = {
    "prompt": _IDS,
    "max_new_tokens": Annotated[int, WHOLE, "a whole number from 1"],
    "tree": Annotated[InstanceOf[TreeConfig], "a TreeConfig"],
    "eos_token_ids": _ID_SET,
    "stop_token_ids": _ID_SET,
    "stop": Annotated[Callable[..., Any] | None, "a callable or None"],
    "processors": _CALLABLES,
    "warpers": _CALLABLES,
    "grammar": Annotated[InstanceOf[Grammar] | None, "a Grammar or None"],
    "seed": Annotated[int | None, WHOLE, "a whole number or None"],
}
"""What the fields of a `Request` must be."""


@dataclass
class Request:
    """One sequence to decode, with its own limits, its own drafter and its own adapter.

    prompt: token ids, at least one. max_new_tokens: cut to what the context has room for. eos_token_ids and
    stop_token_ids end the sequence and are its last token ("eos", "stop"). stop: see `StopCheck`; the token that
    completes a stop string is kept. processors: applied to the main stream's logits after every token, with that
    token's own path as history. grammar: what the text must look like; tokens that it forbids are taken out after the
    processors. warpers: applied after them to the scores alone, of several rows at once where these
    have the same ones. seed: of the random numbers by which tokens are drawn (`accept/sampled.py`); None: the likeliest
    token is taken. top_logprobs: how many of them a `Generation` notes; None: no log-probabilities at all. drafter: who
    proposes tokens (`draft/`); None decodes plainly. adapter: whose LoRA the row runs with, as the router knows it
    (`Pass.adapters`); None: nobody's.
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
    grammar: Grammar | None = None
    warpers: Sequence[LogitsProcessor] = ()
    seed: int | None = None
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raises `GenerationError` for a field of another type; `most_tokens` checks what depends on the model."""
        for name, hint in _TYPES.items():
            check(hint, getattr(self, name), name, GenerationError)
        if self.streams is not None:
            self.tree.check_prune_head(self.streams.config.prune_head_rank)

    def most_tokens(self, context: int, vocab_size: int) -> int:
        """Tokens that it may produce on a model of `context` positions and `vocab_size` token ids.

        Raises:
            GenerationError: the prompt is empty, leaves no room in the context, or holds ids that the model lacks.
        """
        if not self.prompt:
            raise GenerationError("a prompt has no tokens; give at least one, for example the BOS token")
        if self.max_new_tokens < 1:
            raise GenerationError(
                f"max_new_tokens={self.max_new_tokens}: at least one token must be asked for; raise max_new_tokens"
            )
        if len(self.prompt) >= context:
            raise GenerationError(
                f"a prompt has {len(self.prompt)} tokens, but the model's context holds {context} and the answer "
                "needs room in it; shorten the prompt"
            )
        for what, ids in (("a prompt", self.prompt), ("stop_token_ids", self.stop_token_ids)):
            if unknown := [token for token in ids if not 0 <= token < vocab_size]:
                raise GenerationError(
                    f"{what} has the token id {shown(unknown[0])}, but the model knows 0 to {vocab_size - 1} only; "
                    "take ids from the base's own tokenizer"
                )
        return min(self.max_new_tokens, context - len(self.prompt))

    @property
    def greedy(self) -> bool:
        """Whether every token is the likeliest by the main stream's own logits."""
        return self.seed is None and self.grammar is None and not self.processors and not self.warpers

    @property
    def ends(self) -> frozenset[int] | set[int]:
        """Token ids that end the sequence."""
        return self.eos_token_ids | self.stop_token_ids

    @property
    def temperature(self) -> float:
        """By which the logits are divided before a token is drawn; 1 where none is."""
        return next((float(w.temperature) for w in self.warpers if isinstance(w, TemperatureLogitsWarper)), 1.0)

    @property
    def depth(self) -> int:
        """g: how many tokens ahead the draft uses, at most the drafter's reach."""
        reach = 0 if self.drafter is None else self.drafter.reach
        return min(reach, self.tree.max_depth or reach)

    @property
    def looks_up(self) -> bool:
        """Whether what came earlier in its prompt and text is drafted again (`draft/lookup.py`)."""
        return self.drafter is not None and (self.tree.lookup or self.drafter.looks_up)

    @property
    def streams(self) -> StreamModules | None:
        """The stream parameters that a pass carries for this row; None where its draft needs none."""
        return None if self.drafter is None else self.drafter.streams

    @property
    def stream_depth(self) -> int:
        """Streams that the row uses of each node: g, or 0 where it has none."""
        return 0 if self.streams is None else self.depth

    @property
    def prunes(self) -> bool:
        """Whether branches of its trees are dropped inside a pass (`prune.py`)."""
        return bool(self.stream_depth and self.tree.prunes)


@dataclass
class Generation:
    """What one prompt became.

    token_ids: produced tokens, the EOS or stop token included if it came. calls: passes of the model, the prompt's
    included, so plain decoding has calls == len(token_ids). accepted: [depth] passes after the prompt's that accepted
    that deep (index 0: none). finish_reason: "eos", "stop" (a stop string or token), "length" or "cancelled"; empty
    while it runs. logprobs: where the request asks for them, of every token by the model itself, before processors and
    warpers; top_logprobs: token id -> log-probability of the likeliest in each place. seconds: wall clock from the call
    until the row ended. prompt_seconds: until its first pass was done, which gave prompt_tokens tokens (one here; a
    method that drafts before its first pass has several).
    """

    token_ids: list[int] = field(default_factory=list)
    calls: int = 0
    accepted: list[int] = field(default_factory=list)
    finish_reason: str = ""
    seconds: float = 0.0
    prompt_seconds: float = 0.0
    prompt_tokens: int = 1
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
