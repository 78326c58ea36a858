"""`StaticStep`: passes over trees in few shapes and in memory that stays, so that a GPU can replay them as graphs.

    rows, nodes, stream nodes, slots    padded to a `bucket`; nobody sees what is added
    ids, positions, masks, …            copied into tensors that stay with the bucket (`TreeInputs`)
    keys and values                     in a store that stays (`stores.py`), written where a tensor says
    LoRA, stream parameters             where they lie; a bucket is of these very adapters in this order of rows

    a bucket comes first                its pass runs operator by operator
                second                  is captured
                from then on            replayed

Prompts have too many lengths and are few: their passes stay as they are. Both heads stay outside of the graph: that of
the nodes is one product, without the padding, and that of the streams follows a node that the host has chosen.
Passes in which branches are dropped (`prune.py`) have as many rows as are left, and stay as they are, too.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ssft.decoding.cache import TreeCache
from ssft.decoding.graphs import Capture, CudaGraphs, Run
from ssft.decoding.inputs import TreeInputs
from ssft.decoding.prune import pruning_of
from ssft.decoding.row import Row
from ssft.decoding.step import MASKS, Output, States, Step, Timer, depth_of, untimed
from ssft.decoding.stores import SLOTS, StaticCache, Stores, StoreView, bucket, bucket_of_slots
from ssft.decoding.tree import DraftTree
from ssft.streams.insertion import StreamHooks

CAPTURED_AT = 2
"""Which pass of a bucket is captured: one that comes once is not worth it."""

MOST = 64
"""Buckets that are kept; the one that was used longest ago goes first."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bucket:
    """The shape of a pass, and weak references to all else that it reads: the store, of every row its LoRA and streams.

    The store says how many rows and slots there are. span: K, slots attended to.
    """

    nodes: int
    sources: int
    num_streams: int
    span: int
    owners: tuple[Any, ...]


@dataclass
class _Kept:
    """What stays of a bucket between its passes."""

    inputs: TreeInputs
    passes: int = 0
    replay: Run | None = None


class StaticStep(Step):
    """A `Step` whose passes over trees are captured by `capture`; None: they run like this without being captured.

    The states of a pass are to be read before the next one. A graph goes with the first thing that it reads: an adapter
    that leaves the device, or a store of keys and values that is no longer kept. Where capture fails, that is said once
    with the reason, and passes run operator by operator.
    """

    slow_passes = CAPTURED_AT

    def __init__(self, hooks: StreamHooks, capture: Capture | None, timer: Timer | None = None) -> None:
        super().__init__(hooks, timer)
        self.capture = capture
        self.stores = Stores()
        self._kept: OrderedDict[Bucket, _Kept] = OrderedDict()
        self._told = False

    @property
    def graphs(self) -> int:
        """Passes that are captured now."""
        return sum(kept.replay is not None for kept in list(self._kept.values()))

    def trees(self, rows: list[Row], sources: list[list[int]], cache: TreeCache) -> States:
        """One forward over every row's tree, as `Step.trees` has it."""
        assert isinstance(cache, StaticCache)
        if (pruning := pruning_of(self, rows, sources, cache, depth_of(rows))) is not None:
            self._tell_of_pruning()
            self.steady = True
            return self._whole_trees(rows, sources, cache, pruning)
        with self.timer(MASKS):
            store, trees, beside = cache.lent, [row.tree for row in rows], len(sources[0])
            # A row of padding is like the last one, with nothing in the cache and a lone root.
            missing = store.tensor.shape[2] - len(rows)
            everyone = rows + rows[-1:] * missing
            nodes, num_streams = self._padded(max(map(len, trees))), depth_of(rows)
            width = bucket(beside) if num_streams else 0
            span = bucket_of_slots(cache.end + nodes + width * num_streams, max(SLOTS, self.shapes.keys))
            inputs = self._inputs(
                everyone,
                trees + [DraftTree([0])] * missing,
                cache.lengths + [0] * missing,
                [(own + [0] * width)[:width] for own in sources] + [[0] * width] * missing,
                nodes,
                (span, span),
                torch.empty(0, dtype=store.tensor.dtype),
            )
            read = [store, *(row.request.adapter for row in everyone)]
            read += [row.request.streams for row in everyone] if width else []
            kept = self._kept_for((nodes, width, num_streams, span), read, inputs)

        def forward() -> Output:
            view = StoreView(store.tensor, kept.inputs.slots, span)
            return self._forward(self._pass(everyone, kept.inputs, span), view)

        main, streams = self._run(kept, forward)
        streams = None if streams is None else streams[: len(rows), :beside]
        return States(main[: len(rows), : max(map(len, trees))].contiguous(), streams, sources)

    def _tell_of_pruning(self) -> None:
        """Say once that such passes are not captured: how many rows go on is known inside of them alone."""
        if self.capture is not None and not self._told:
            self._told = True
            _log.warning(
                "tree.prune_below and tree.prune_keep: a pass in which branches are dropped runs operator by operator, "
                "not as a CUDA graph, since how many rows go on is only known in its middle"
            )

    def _run(self, kept: _Kept, forward: Run) -> Output:
        """The pass, captured if its bucket has come often enough."""
        kept.passes += 1
        self.steady = kept.passes > CAPTURED_AT
        if self.timer is untimed:  # a graph knows no parts that could be timed
            if kept.replay is None and kept.passes >= CAPTURED_AT:
                kept.replay = self._captured(forward)
            if kept.replay is not None:
                return kept.replay()
        return forward()

    def _captured(self, forward: Run) -> Run | None:
        """The pass as a graph; None where there can be none."""
        if self.capture is None:
            return None
        try:
            return self.capture(forward)
        except RuntimeError as error:
            self.capture = None
            reason = " ".join(str(error).split())[:300]
            _log.warning("passes cannot be captured as CUDA graphs, and take longer without: %s", reason)
            return None

    def _kept_for(self, shape: tuple[int, int, int, int], read: list[Any], inputs: TreeInputs) -> _Kept:
        """What stays of a bucket, with these inputs in it."""
        key = Bucket(*shape, _references(read))
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            found.inputs.copy_(inputs)
            return found
        while len(self._kept) >= MOST:
            self._kept.popitem(last=False)
        key = Bucket(*shape, _references(read, self._forget))
        self._kept[key] = found = _Kept(inputs.to(self._like().device))
        return found

    def _forget(self, dead: Any) -> None:
        """Drop the buckets that read what is gone."""
        for key in list(self._kept):
            if any(owner is dead for owner in key.owners):
                self._kept.pop(key, None)

    def _padded(self, nodes: int) -> int:
        return bucket(nodes, self.shapes.rows)

    def _cache(self, *shape: Any) -> TreeCache:
        return StaticCache(self.stores, *shape)


def _references(read: list[Any], gone: Callable[[Any], None] | None = None) -> tuple[Any, ...]:
    """Weak references to what is not None; `gone` is called with each whose object ceases to be."""
    return tuple(None if owner is None else weakref.ref(owner, gone) for owner in read)


def step_for(hooks: StreamHooks, graphs: bool = True) -> Step:
    """The step of a model: with CUDA graphs where all of it is on one CUDA device, unless `graphs` is False."""
    devices = {parameter.device for parameter in hooks.backbone.model.parameters()}
    if graphs and len(devices) == 1 and (device := devices.pop()).type == "cuda":
        return StaticStep(hooks, CudaGraphs(device))
    return Step(hooks)
