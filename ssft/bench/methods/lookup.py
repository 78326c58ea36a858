"""Lookup alone, in the loop and the tree of the streams, so that only the guesses differ."""

from typing import Any

from ssft.bench.methods import plain
from ssft.decoding.draft.lookup import LookupDrafter


class Method(plain.Method):
    """Runs of the prompt and of the text so far, as branches of the adapter's draft tree."""

    DESCRIPTION = "drafts of what came earlier in prompt and text after the same tokens, in a tree, without streams"
    KIND = "speculative"
    drafting: dict[str, Any] = {"drafter": LookupDrafter()}  # noqa: RUF012 (never changed)
