"""`StaticCache`: a `TreeCache` whose memory stays where it is from call to call, for passes that are captured.

A captured pass reads and writes fixed addresses. So a cache borrows its memory: a `Store` with room for a whole number
of rows and slots (`bucket`), which goes back to its `Stores` with the cache and is lent to the next one of that size.

    Store     [N, 2, 4, H_kv, 256, D]         rows and slots of a bucket: what a captured pass works on
    cache     [N, 2, 3, H_kv, 256, D]         its first rows: what `TreeCache` works on
"""

import weakref
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ssft.base.kernels.shapes import KEYS, whole
from ssft.decoding.cache import TreeCache

SLOTS = 128
"""Fewest slots of a store, and fewest that a pass attends to."""

SPARE_BYTES = 1 << 30
"""Of stores that are kept for caches to come, beside the latest."""


def bucket(count: int, least: int = 1) -> int:
    """The rows, nodes or stream nodes, up from `count`, that passes are padded to: 1, 2, 4, 8, and on in eights."""
    return _size(count, least, 8)


def bucket_of_slots(count: int, least: int = SLOTS) -> int:
    """The same for slots: 128, 256, 512, and on in steps of 512."""
    return _size(count, least, KEYS)


def _size(count: int, least: int, step: int) -> int:
    """The next power of two from `least` on; beyond `step` the next multiple of it. Of nothing, nothing."""
    size = max(least, 1 << (count - 1).bit_length()) if count else 0
    return size if size <= step else whole(count, step)


@dataclass(eq=False)
class Store:
    """Memory for keys and values [N, 2, B, H_kv, T, D], known by its identity."""

    tensor: Tensor


class Stores:
    """The stores of one model that no cache is using, latest last."""

    def __init__(self) -> None:
        self._spare: list[Store] = []

    def borrow(self, shape: tuple[int, ...], like: Tensor) -> Store:
        """One of exactly that shape, filled with zeros; `like` gives dtype and device of a new one."""
        # A cache may give its own back at any moment, so that the list is never changed while it is looked through.
        spare = list(self._spare)
        found = next((store for store in spare if store.tensor.shape == shape), None)
        if found is None:
            self._spare = _newest(spare)
            return Store(torch.zeros(shape, dtype=like.dtype, device=like.device))
        self._spare = [store for store in spare if store is not found]
        # What a mask hides must be a number, which a call before may not have left.
        found.tensor.zero_()
        return found

    def give_back(self, store: Store) -> None:
        """Keep it for the next cache; of the others those that were given back first go where they are too large."""
        self._spare = [*_newest(self._spare), store]


def _newest(stores: list[Store]) -> list[Store]:
    """The last of these, as many as fit into `SPARE_BYTES`."""
    sizes = accumulate(store.tensor.nbytes for store in reversed(stores))
    fitting = sum(size <= SPARE_BYTES for size in sizes)
    return stores[len(stores) - fitting :]


class StaticCache(TreeCache):
    """A `TreeCache` in a borrowed store, the first rows of which are its `store`."""

    def __init__(self, stores: Stores, *shape: Any, **more: Any) -> None:
        """`stores`: whom it borrows from; the rest is `TreeCache`'s."""
        self._stores = stores
        self._return: Any = None
        super().__init__(*shape, **more)

    def _room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        layers, kinds, rows, heads, size, width = shape
        if self._return is not None:
            self._return()
        self.lent = self._stores.borrow((layers, kinds, bucket(rows), heads, bucket_of_slots(size), width), like)
        self._return = weakref.finalize(self, self._stores.give_back, self.lent)
        self._return.atexit = False
        return self.lent.tensor[:, :, :rows]

    def _take(self, store: Tensor) -> None:
        # A copy: the store that it came from may be the very one that is lent now.
        self.store = self._room(tuple(store.shape), store)
        self.store.copy_(store)


class StoreView(Cache):
    """What one captured pass sees of a store: it writes where a tensor says, and attends to a fixed number of slots."""

    def __init__(self, store: Tensor, slots: Tensor, span: int) -> None:
        """store [N, 2, B, H_kv, T, D]; slots [B, R] of the rows that are written; span: K, slots attended to."""
        super().__init__(layers=[])
        self.store, self.slots, self.span = store, slots, span

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are given, and a length of now would be wrong in the next pass."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Keys that a pass returns, and the offset of the first."""
        return self.span, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H_kv, R, D] into the slots; return keys and values [B, H_kv, K, D]."""
        index = self.slots[:, None, : key_states.shape[2], None].expand_as(key_states)
        keys, values = self.store[layer_idx, 0], self.store[layer_idx, 1]
        keys.scatter_(2, index, key_states)
        values.scatter_(2, index, value_states)
        return keys[:, :, : self.span], values[:, :, : self.span]
