"""Speculative streaming with the adapter's own streams and tree."""

from typing import Any

from ssft.bench.methods import plain
from ssft.errors import GenerationError

NAME = "streaming"
DESCRIPTION = "speculative streams of the adapter, verified in a tree (arXiv 2402.11131)"
LOSSLESS = True


class Method(plain.Method):
    """One pass verifies a tree and drafts the next."""

    streaming = True

    def __init__(self, adapted: Any, max_new_tokens: int, batch_size: int) -> None:
        if adapted.streams is None:
            raise GenerationError(
                f"{adapted.name!r} has no streams, so it decodes plainly; train an adapter with `ssft train`, or leave "
                "the method streaming out (--methods plain,generate)"
            )
        super().__init__(adapted, max_new_tokens, batch_size)

    def extra_parameters(self) -> int:
        """P_j and f_η."""
        return int(self.adapted.streams.count())
