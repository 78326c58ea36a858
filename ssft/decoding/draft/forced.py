"""A drafter for rows that have none of their own: it guesses nothing, so that a draft is what a grammar forces."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssft.decoding.draft.drafter import Drafter, Guesses, Stop

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step


class ForcedDrafter(Drafter):
    """Drafts nothing by itself; see `grown.py` for what a grammar puts into the tree."""

    reach = 0

    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """Nothing in any row."""
        return [None] * len(stops)
