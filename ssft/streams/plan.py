"""`StreamPlan`: which stream rows one forward pass carries, and where they stand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssft.streams.mixed import MixedStreams
from ssft.streams.modules import StreamModules


@dataclass
class Left:
    """The rows of a pass that go on above the layer where branches of the draft were dropped.

    rows: [B, n + m·g] of the rows `[main | streams]`: n main rows in their order, then the groups of m sources.
    num_main: n. sources: [B, m], of the n main rows that which each group stands beside.
    """

    rows: Tensor
    num_main: int
    sources: Tensor


Prune = Callable[[int, Tensor], Left | None]
"""Asked at every layer where streams start, with their N_s and the main rows [B, R, h]; None: all rows go on."""


@dataclass
class StreamPlan:
    """Streams of one forward pass over [B, R] main rows.

    Rows of the layers from the insertion layer up are `[R main rows | S·g stream rows]`, g rows per source:

        main rows    x0 x1 x2 x3        sources [[1, 3]], g = 2
        stream rows  1/1 1/2 3/1 3/2    stream j of source t sees x0..xt and streams 1..j of t, nothing else

    Fields:
        modules: the stream parameters: one adapter's, or those of a batch with an adapter per row.
        sources: [B, S] main row that each group of g streams stands beside.
        num_streams: g, streams beside each source: γ in training; decoding may use the first g only.
        frozen_main: nothing that trains reaches the main rows, so that no gradient is taken below the insertion layer
            nor of the main rows' attention.
        masks: by a layer's window [B, 1, R + S·g, K], additive (0 or the dtype's minimum) over the cache's K slots:
            decoding, where rows are few. None: training and prompts; `attention.py` splits main and stream rows there,
            so that memory stays linear.
        used: keys that any row has in use, of the K slots of `masks`; the rest are empty.
        slots: [B, S·g] where the streams' keys and values stand among those that attention gets: decoding, where they
            follow each row's own nodes in the cache. None: right behind the main rows.
        prune: what drops branches inside the pass (paper §3.2.3); None: nothing does.
        num_main, layer_kwargs: filled by the pass: R, and the lengthened layers' positions by their `Rotary`.
        entered: filled by the pass: the main states [B, S, h] that the streams were made of where the first start.
        left, begun: filled by the pass: the rows that go on, once some were dropped, and how many main rows there were;
            num_main and sources are then theirs.
        main, streams: filled by the pass: the last layer's raw output, [B, R, h] and [B, S·g, h].
    """

    modules: StreamModules | MixedStreams
    sources: Tensor
    num_streams: int
    frozen_main: bool = False
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    used: int = 0
    slots: Tensor | None = None
    prune: Prune | None = field(default=None, repr=False)
    main: Tensor | None = field(default=None, repr=False)
    streams: Tensor | None = field(default=None, repr=False)
    num_main: int = 0
    layer_kwargs: dict[Any, dict[str, Any]] = field(default_factory=dict, repr=False)
    entered: Tensor | None = field(default=None, repr=False)
    left: Tensor | None = field(default=None, repr=False)
    begun: int = 0

    def positions(self, position_ids: Tensor) -> Tensor:
        """Position of stream j = position of its source + j: main [B, R] -> streams [B, S·g]."""
        source = position_ids.expand(self.sources.shape[0], -1).gather(1, self.sources)
        steps = torch.arange(1, self.num_streams + 1, device=source.device)
        return (source.unsqueeze(-1) + steps).flatten(1)

    def with_rotated_values(self, values: Tensor) -> Tensor:
        """Attention's values [B, H, K, D] with those of stream j turned, where its identifier is value rotation.

        Appendix B; with the embedding P_j the values come back as they are.
        """
        if not self.modules.rotates:
            return values
        if self.slots is None:
            main, streams = values[:, :, : self.num_main], values[:, :, self.num_main :]
            return torch.cat((main, self.modules.rotate_values(streams, self.num_streams)), dim=2)
        index = self.slots[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
        return values.scatter(2, index, self.modules.rotate_values(values.gather(2, index), self.num_streams))

    def drop(self, left: Left, hidden: Tensor) -> Tensor:
        """Go on with these rows alone: hidden [B, R + S·g, h] -> [B, n + m·g, h].

        Every row keeps its mask, its position and its slot. So what is left sees what it saw: of a node that was
        dropped all descendants were, and none else looks at it.
        """
        self.masks = {window: picked(mask.squeeze(1), left.rows).unsqueeze(1) for window, mask in self.masks.items()}
        if self.slots is not None:
            self.slots = self.slots.gather(1, left.rows[:, left.num_main :] - self.num_main)
        self.layer_kwargs.clear()
        self.left, self.begun = left.rows, self.num_main
        self.num_main, self.sources = left.num_main, left.sources
        return picked(hidden, left.rows)

    def of_main(self, values: Tensor) -> Tensor:
        """Values [B, R, d] of all main rows -> those of the main rows that go on."""
        return values if self.left is None else picked(values, self.left[:, : self.num_main])

    def in_place(self, values: Tensor) -> Tensor:
        """The other way: values [B, n, d] of the main rows that go on among zeros, each in the place that it had."""
        if self.left is None:
            return values
        index = self.left[:, : self.num_main].unsqueeze(-1).expand_as(values)
        return values.new_zeros(values.shape[0], self.begun, values.shape[2]).scatter(1, index, values)


def picked(values: Tensor, rows: Tensor) -> Tensor:
    """Rows [B, n] of values [B, R, d] -> [B, n, d]."""
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
