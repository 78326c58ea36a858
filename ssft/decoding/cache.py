"""`TreeCache`: preallocated keys and values with a length per row, from which a path of a tree can be kept."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ssft.streams.plan import StreamPlan


class TreeCache(Cache):
    """Keys and values of B rows in one buffer [N, 2, B, H_kv, T, D].

    A pass writes its rows (tree nodes, then streams) behind each row's own length and attends to all of it; what is
    not kept afterwards lies behind the length and is overwritten by the next pass. So streams never enter the cache,
    and its memory is the plain model's plus one pass of scratch.

        length 3, a tree of nodes n0 n1 n2 n3 and streams s:   x0 x1 x2 | n0 n1 n2 n3 s s s s
        keep path [n0, n2]:                                    x0 x1 x2 n0 n2 | (free)
    """

    def __init__(self, num_layers: int, batch: int, heads: int, size: int, width: int, like: Tensor) -> None:
        """`size` T is the number of slots; `like` gives dtype and device."""
        super().__init__(layers=[])
        self.store = torch.zeros(num_layers, 2, batch, heads, size, width, dtype=like.dtype, device=like.device)
        self.lengths = [0] * batch
        self.plan: StreamPlan | None = None
        self.num_main = 0
        self._slots: Tensor | None = None

    @property
    def end(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return self.end

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that a pass of `query_length` rows returns, and the offset of the first."""
        return self.end + query_length, 0

    def begin(self, plan: StreamPlan | None, num_main: int) -> None:
        """Announce a pass: of the rows that will be written, those from `num_main` on are streams of `plan`."""
        self.plan = plan
        self.num_main = num_main
        self._slots = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H_kv, R, D] behind each row's length; return keys and values [B, H_kv, end + R, D]."""
        rows = key_states.shape[2]
        end = self.end + rows
        keys, values = self.store[layer_idx, 0], self.store[layer_idx, 1]
        # Without a mask the attention itself splits main and streams, and rotates (`streams/attention.py`).
        if self.plan is not None and self.plan.mask is not None and rows > self.num_main:
            main = self.num_main
            rotated = self.plan.modules.rotate_values(value_states[:, :, main:], self.plan.num_streams)
            value_states = value_states if rotated is None else torch.cat((value_states[:, :, :main], rotated), dim=2)
        if len(set(self.lengths)) == 1:
            keys[:, :, end - rows : end] = key_states
            values[:, :, end - rows : end] = value_states
        else:
            index = self._slot_index(rows).expand_as(key_states)
            keys.scatter_(2, index, key_states)
            values.scatter_(2, index, value_states)
        return keys[:, :, :end], values[:, :, :end]

    def _slot_index(self, rows: int) -> Tensor:
        """[B, 1, R, 1] slot of each written row; worked out once per pass and number of rows."""
        if self._slots is None or self._slots.shape[2] != rows:
            starts = torch.tensor(self.lengths, device=self.store.device).unsqueeze(1)
            steps = torch.arange(rows, device=self.store.device)
            self._slots = (starts + steps).view(len(self.lengths), 1, rows, 1)
        return self._slots

    def keep(self, paths: list[list[int]]) -> None:
        """After a pass: row b keeps the nodes `paths[b]` (indices among the written rows, ascending), in place."""
        for row, path in enumerate(paths):
            start = self.lengths[row]
            # Nodes that already stand where they belong need no copy.
            fixed = next((i for i, node in enumerate(path) if node != i), len(path))
            if fixed < len(path):
                source = torch.tensor([start + node for node in path[fixed:]], device=self.store.device)
                kept = self.store[:, :, row].index_select(3, source)
                self.store[:, :, row, :, start + fixed : start + len(path)] = kept
            self.lengths[row] = start + len(path)

    def select(self, rows: list[int]) -> None:
        """Keep only these rows of the batch."""
        index = torch.tensor(rows, device=self.store.device)
        self.store = self.store.index_select(2, index)
        self.lengths = [self.lengths[row] for row in rows]
