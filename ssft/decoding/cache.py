"""`TreeCache`: preallocated keys and values with a length per row, from which a path of a tree can be kept."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from ssft.base.kernels.shapes import Shapes, whole


@dataclass
class _Left:
    """What goes on of a pass: the slots [B, R] of its rows, its nodes [B][n], and how many rows it had before."""

    slots: Tensor
    nodes: list[list[int]]
    whole: int


class TreeCache(Cache):
    """Keys and values of B rows in one buffer [N, 2, B, H_kv, T, D].

    A pass writes its rows (tree nodes, then streams) behind each row's own length and attends to all of it; what is
    not kept afterwards lies behind the length and is overwritten by the next pass. So streams never enter the cache,
    and its memory is the plain model's plus one pass of scratch.

        length 3, a tree of nodes n0 n1 n2 n3 and streams s:   x0 x1 x2 | n0 n1 n2 n3 s s s s
        keep path [n0, n2]:                                    x0 x1 x2 n0 n2 | (free)

    Branches may be dropped in the middle of a pass (paper §3.2.3). What is left keeps its slots (`write_only`): so one
    index serves the layers below, which hold all nodes, and those above, where nobody sees the slots of the others.
    """

    def __init__(
        self,
        num_layers: int,
        batch: int,
        heads: int,
        size: int,
        width: int,
        like: Tensor,
        shapes: Shapes = Shapes(),  # noqa: B008 (frozen)
    ) -> None:
        """T is `size` slots, or a few more: slots come in blocks. `like` gives dtype and device."""
        super().__init__(layers=[])
        self.shapes = shapes
        shape = (num_layers, 2, batch, heads, whole(size, shapes.keys), width)
        self.store = self._room(shape, like)
        self.lengths = [0] * batch
        self._slots: dict[int, Tensor] = {}  # by the number of rows; for these lengths
        self._left: _Left | None = None  # of the pass that runs

    @property
    def end(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return self.end

    def span(self, rows: int) -> int:
        """K, the keys that a pass of `rows` rows attends to: all up to its own, and empty ones (`Shapes`)."""
        return self.shapes.span(self.end + rows)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that a pass of `query_length` rows returns, and the offset of the first."""
        return self.span(query_length), 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H_kv, R, D] behind each row's length; return keys and values [B, H_kv, K, D]."""
        rows = key_states.shape[2]
        end = self.end + rows
        keys, values = self.store[layer_idx, 0], self.store[layer_idx, 1]
        if len(set(self.lengths)) == 1 and self._left is None:
            keys[:, :, end - rows : end] = key_states
            values[:, :, end - rows : end] = value_states
        else:
            slots = self.slots(rows) if self._left is None else self._left.slots
            index = slots[:, None, :, None].expand_as(key_states)
            keys.scatter_(2, index, key_states)
            values.scatter_(2, index, value_states)
        span = self.span(rows if self._left is None else self._left.whole)
        return keys[:, :, :span], values[:, :, :span]

    def slots(self, rows: int) -> Tensor:
        """[B, R] slots of the next R rows: those behind each row's own length."""
        if rows not in self._slots:
            starts = torch.tensor(self.lengths, device=self.store.device).unsqueeze(1)
            self._slots[rows] = starts + torch.arange(rows, device=self.store.device)
        return self._slots[rows]

    def write_only(self, rows: Tensor, nodes: list[list[int]], whole: int) -> None:
        """Until the pass ends, its rows are these [B, R] of the `whole` rows that it began with, in the slots of those.

        nodes [B][n]: the rows that `keep` then counts its paths by.
        """
        starts = torch.tensor(self.lengths, device=self.store.device).unsqueeze(1)
        self._left = _Left(starts + rows, nodes, whole)

    def set_lengths(self, lengths: list[int]) -> None:
        """Say how many tokens each row holds; what lies behind is free."""
        self.lengths = lengths
        self._slots.clear()
        self._left = None

    def keep(self, paths: list[list[int]]) -> None:
        """After a pass: row b keeps the nodes `paths[b]` (indices among those that are left, ascending), in place."""
        if self._left is not None:
            paths = [[left[node] for node in path] for left, path in zip(self._left.nodes, paths, strict=True)]
        lengths = []
        for row, (start, path) in enumerate(zip(self.lengths, paths, strict=True)):
            # Nodes that already stand where they belong need no copy.
            fixed = next((i for i, node in enumerate(path) if node != i), len(path))
            if fixed < len(path):
                source = torch.tensor([start + node for node in path[fixed:]], device=self.store.device)
                kept = self.store[:, :, row].index_select(3, source)
                self.store[:, :, row, :, start + fixed : start + len(path)] = kept
            lengths.append(start + len(path))
        self.set_lengths(lengths)

    def select(self, rows: list[int]) -> None:
        """Keep only these rows of the batch, in this order."""
        self._take(self.store.index_select(2, torch.tensor(rows, device=self.store.device)))
        self.set_lengths([self.lengths[row] for row in rows])

    def join(self, other: "TreeCache", size: int) -> None:
        """Take the rows of another cache of the same model behind one's own, with at least `size` slots for all."""
        size = max(self.store.shape[4], other.store.shape[4], whole(size, self.shapes.keys))
        self._take(torch.cat((_widened(self.store, size), _widened(other.store, size)), dim=2))
        self.set_lengths(self.lengths + other.lengths)

    def _room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A buffer of that shape, or with more slots."""
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def _take(self, store: Tensor) -> None:
        """Go on with these keys and values."""
        self.store = store


def _widened(store: Tensor, size: int) -> Tensor:
    """A buffer [N, 2, B, H_kv, T, D] with room for `size` slots."""
    return F.pad(store, (0, 0, 0, size - store.shape[4]))
