"""`Drafter`: who proposes the tokens after the one that the main stream issued last."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ssft.decoding.row import Row
from ssft.streams.modules import StreamModules

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step


FEWER_FIT = 8
"""How many times as many guesses are taken where a grammar will leave some of them out."""


@dataclass
class Stop:
    """Where verification stopped in one row of a pass: row number b, the node, and the token issued after it."""

    row: Row
    b: int
    node: int
    issued: int


@dataclass
class Guesses:
    """Proposed tokens [g][k] for the g places after the issued one, best first, with their log-probabilities."""

    tokens: list[list[int]]
    scores: list[list[float]]


class Drafter(ABC):
    """One way to draft. `reach` is how many tokens it proposes ahead; `streams` are the stream parameters that the
    pass must carry for it, None where a pass needs nothing beside the nodes. `reads_grammar`: whether a row's grammar
    has a say in its drafts (`grown.py`); where False only the text keeps to it. `looks_up`: whether its rows have a
    lookup even where their tree asks for none."""

    reach: int
    streams: StreamModules | None = None
    reads_grammar = True
    looks_up = False

    @property
    def group(self) -> object:
        """Rows whose drafters have one group get their drafts together, from any one of these drafters."""
        return self

    @abstractmethod
    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """What may follow in each row; None where nothing is known, so that the next pass has no draft."""


def most_likely(logits: Tensor, stops: Sequence[Stop]) -> list[Guesses]:
    """The best places of logits [d, g, V] (float32) as tokens, for as many streams as each of d rows uses.

    Their probabilities are those at the row's temperature, so that a best-first tree is wide where the text may vary
    and deep where it may not.
    """
    width = max(
        request.tree.top_k * (FEWER_FIT if request.grammar else 1) for request in (s.row.request for s in stops)
    )
    temperatures = [stop.row.request.temperature for stop in stops]
    if any(temperature != 1 for temperature in temperatures):
        logits = logits / logits.new_tensor(temperatures).view(-1, 1, 1)
    best, tokens = logits.topk(min(width, logits.shape[-1]), dim=-1)
    best = best - logits.logsumexp(dim=-1, keepdim=True)
    depths = [stop.row.request.depth for stop in stops]
    return [
        Guesses(guessed[:depth], scores[:depth])
        for depth, guessed, scores in zip(depths, tokens.tolist(), best.tolist(), strict=True)
    ]
