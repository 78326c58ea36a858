"""Drafts from Medusa heads (arXiv 2401.10774) on the main state where verification stopped."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ssft.decoding.draft.drafter import Drafter, Guesses, Stop, most_likely

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step


class MedusaDrafter(Drafter):
    """Head j guesses the very token that stream j guesses, so that the two differ in where the guess comes from alone.

    Every node of a tree has a main state, so there is a draft wherever verification stops
    (`tree.max_stream_nodes` means nothing here), and a pass carries nothing beside the nodes.
    """

    def __init__(self, heads: Any) -> None:
        """`heads`: finished states [.., h] -> logits [.., num_heads, V], of the model's type and device."""
        self.heads = heads
        self.reach = int(heads.config.num_heads)

    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """Every row has a proposal."""
        picked = torch.stack([states.main[stop.b, stop.node] for stop in stops])
        return list(most_likely(self.heads(picked).float(), stops))
