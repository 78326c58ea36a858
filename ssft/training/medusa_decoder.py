"""`MedusaDecoder`: the engine of the streams with Medusa heads as the source of its drafts."""

from typing import Any

import torch
from torch import Tensor

from ssft.decoding.config import TreeConfig
from ssft.decoding.engine import Route, Row, States, StreamDecoder
from ssft.streams.insertion import StreamHooks
from ssft.training.medusa import MedusaHeads


class MedusaDecoder(StreamDecoder):
    """Greedy decoding of one adapted model; only the guesses differ from `StreamDecoder`'s.

    Passes carry no streams. Every node of the tree has a main state, so there is a draft wherever verification stops
    (`tree.max_stream_nodes` means nothing here).
    """

    def __init__(
        self,
        hooks: StreamHooks,
        heads: MedusaHeads,
        tree: TreeConfig | None = None,
        route: Route | None = None,
        adapter: Any = None,
    ) -> None:
        """`hooks` are on the model, whose type and device the heads have; `adapter` is what `route` applies."""
        super().__init__(hooks, None, tree, route, adapter)
        self.heads = heads

    def _guesses(
        self, rows: list[Row], active: list[int], states: States, paths: list[list[int]]
    ) -> tuple[dict[int, int], Tensor | None]:
        """Logits [d, num_heads, V] in float32 of the heads on the main states where verification stopped."""
        most = self.heads.config.num_heads
        depths = {b: min(most, rows[b].request.tree.max_depth or most) for b in active}
        picked = torch.stack([states.main[b, paths[b][-1]] for b in active])
        return depths, self.heads(picked).float()
