"""A drafter for rows that have none of their own: a draft is what a grammar forces, and what a lookup finds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssft.decoding.draft.drafter import Drafter, Guesses, Stop

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step


class ForcedDrafter(Drafter):
    """Guesses nothing by itself; see `grown.py` for what else stands in a tree."""

    reach = 0

    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """Nothing in any row."""
        return [None] * len(stops)
