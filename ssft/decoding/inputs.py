"""`TreeInputs`: what the model reads in one pass over the draft trees of a batch, as tensors (paper §3.2.2)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssft.decoding.masks import tree_masks
from ssft.decoding.tree import DraftTree


@dataclass
class TreeInputs:
    """Of B trees, padded to n nodes each, with g streams beside m nodes of each.

    ids, positions: [B, n]. sources: [B, m], the nodes with streams. slots: [B, n + m·g], where the keys and values of
    nodes and streams stand in the cache. lower, upper: by a layer's window the masks of the layers without and with
    streams (`tree_masks`); upper is empty where m·g is 0.
    """

    ids: Tensor
    positions: Tensor
    sources: Tensor
    slots: Tensor
    lower: dict[int | None, Tensor]
    upper: dict[int | None, Tensor]

    @classmethod
    def of(
        cls,
        trees: list[DraftTree],
        lengths: list[int],
        sources: list[list[int]],
        *,
        nodes: int,
        num_streams: int,
        spans: tuple[int, int],
        windows: Iterable[int | None],
        last_position: int,
        like: Tensor,
    ) -> "TreeInputs":
        """`last_position`: of the context. See `tree_masks` for the rest."""
        device = like.device
        # A draft may point past the context's end; such nodes are never reached, but learned positions stop there.
        positions = [
            [min(length + depth, last_position) for depth in tree.depths]
            for tree, length in zip(trees, lengths, strict=True)
        ]
        rows = nodes + len(sources[0]) * num_streams
        masks = {
            window: tree_masks(trees, lengths, nodes, sources, num_streams, like, window, spans)
            for window in set(windows)
        }
        return cls(
            ids=padded([tree.tokens for tree in trees], device, nodes),
            positions=padded(positions, device, nodes),
            sources=torch.tensor(sources, dtype=torch.long, device=device),
            slots=torch.from_numpy(np.array(lengths)[:, None] + np.arange(rows)).to(device),
            lower={window: lower for window, (lower, _) in masks.items()},
            upper={window: upper for window, (_, upper) in masks.items() if upper is not None},
        )

    def to(self, device: torch.device) -> "TreeInputs":
        """A copy on `device`."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, copy=True)

        return TreeInputs(
            ids=moved(self.ids),
            positions=moved(self.positions),
            sources=moved(self.sources),
            slots=moved(self.slots),
            lower={window: moved(mask) for window, mask in self.lower.items()},
            upper={window: moved(mask) for window, mask in self.upper.items()},
        )

    def copy_(self, other: "TreeInputs") -> None:
        """Take over the values of inputs that have the same shapes; no tensor moves."""
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new)

    def _tensors(self) -> Iterator[Tensor]:
        yield from (self.ids, self.positions, self.sources, self.slots)
        for masks in (self.lower, self.upper):
            yield from (masks[window] for window in sorted(masks, key=lambda window: window or 0))


def padded(lists: Sequence[list[int]], device: torch.device, width: int = 0) -> Tensor:
    """[B][..] -> [B, width, or what the longest needs], shorter ones filled with 0 on the right."""
    width = max(width, *map(len, lists))
    return torch.tensor([values + [0] * (width - len(values)) for values in lists], device=device)
