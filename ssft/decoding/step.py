"""`Step`: one forward of the model over a batch's prompts, or over its draft trees (paper §3.2.2, appendix A.1)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ssft.base.kernels.shapes import Shapes, whole
from ssft.decoding.cache import TreeCache
from ssft.decoding.inputs import TreeInputs, padded
from ssft.decoding.prune import Pruning, pruning_of
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree
from ssft.streams.insertion import StreamHooks
from ssft.streams.mixed import streams_of_rows
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan

PROMPT, MASKS, LAYERS, HEAD = "prompt passes", "masks (Python)", "layers without streams", "head"
"""Parts of a pass that a step times, if it is given a timer."""

Timer = Callable[[str], AbstractContextManager[None]]
"""A part's name -> a context that measures what happens inside."""

Output = tuple[Tensor, Tensor | None]
"""Of the decoder: main rows [B, R, h] as the head reads them, and streams [B, m, g, h] raw."""


def untimed(_part: str) -> AbstractContextManager[None]:
    """The timer of a step that nobody measures."""
    return nullcontext()


@dataclass
class States:
    """What a pass leaves: main [B, n, h] as the head reads it, streams [B, m, g, h] raw, sources [B][m] their nodes.

    A source -1 is that of no node; nobody reads its streams.
    """

    main: Tensor
    streams: Tensor | None
    sources: list[list[int]]

    def select(self, rows: list[int]) -> "States":
        """These rows of the batch, in this order; one may come several times."""
        streams = None if self.streams is None else self.streams[rows]
        return States(self.main[rows], streams, [self.sources[row] for row in rows])


class Step:
    """Passes of one model, whose stream hooks are `hooks`; it keeps nothing between them.

    slow_passes: how many passes of one shape take longer than those that follow. steady: the latest was none of them.
    """

    slow_passes = 0
    steady = True

    def __init__(self, hooks: StreamHooks, timer: Timer | None = None) -> None:
        """`timer` measures the parts of a pass; without one nothing is measured."""
        self.hooks = hooks
        self.backbone = hooks.backbone
        self.shapes = Shapes.of(self._like().dtype, self._like().device, self.backbone.anatomy.width)
        self.timer: Timer = timer or untimed

    def prompts(self, rows: list[Row]) -> tuple[States, TreeCache]:
        """All prompts at once, padded on the right, where no row sees it; streams beside the last token.

        The cache is new and holds the prompts.
        """
        with self.timer(PROMPT):
            cache = self.new_cache(rows)
            prompts = [row.request.prompt for row in rows]
            lengths = [len(prompt) for prompt in prompts]
            last = torch.tensor(lengths, device=cache.store.device).unsqueeze(1) - 1
            if self.shapes.exact:
                # As a tree that is a chain: with the mask and the shapes of every other pass.
                chains = [
                    DraftTree(prompt, [*range(-1, n - 1)], [*range(n)])
                    for prompt, n in zip(prompts, lengths, strict=True)
                ]
                states = self._trees(rows, chains, [[n - 1] for n in lengths], cache)
                hidden, streams = states.main, states.streams
            else:
                ids = padded(prompts, cache.store.device)
                positions = torch.arange(ids.shape[1], device=ids.device).expand(len(rows), -1)
                hidden, streams = self._forward(Pass(self._plan(rows, last), _adapters(rows), ids, positions), cache)
            # The streams' slots and the padding lie behind the lengths set here: the next pass overwrites them.
            cache.set_lengths(lengths)
            main = hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            return States(main, streams, [[0]] * len(rows)), cache

    def trees(self, rows: list[Row], sources: list[list[int]], cache: TreeCache) -> States:
        """One forward over every row's tree: [B, n] nodes, then g streams beside the m nodes `sources` [B][m].

        Where branches are dropped inside the pass (`prune.py`), the rows' trees and the states are of what was left.
        """
        return self._whole_trees(rows, sources, cache, pruning_of(self, rows, sources, cache, depth_of(rows)))

    def _whole_trees(
        self, rows: list[Row], sources: list[list[int]], cache: TreeCache, pruning: Pruning | None
    ) -> States:
        """`trees`, which drop the branches that `pruning` says."""
        states = self._trees(rows, [row.tree for row in rows], sources, cache, pruning)
        if pruning is not None:
            sources = pruning.finish()
        nodes = max(len(row.tree) for row in rows)
        # Without what nodes are filled up with; in one piece, since the head copies its weight for rows that are not.
        return States(states.main[:, :nodes].contiguous(), states.streams, sources)

    def logits(self, rows: Sequence[Row], hidden: Tensor, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Finished states [B, .., h] of these rows -> logits [B, .., V]; the head, too, may carry a LoRA.

        `head` stands in for the model's own, and gives the logits of the token ids that it has rows for.
        """
        with self.timer(HEAD), announced(Pass(adapters=_adapters(rows))):
            return self.backbone.logits(hidden, head)

    def slots_needed(self, rows: Sequence[Row]) -> int:
        """Room for the longest row to its end and, behind it, one pass of tree nodes and their streams."""
        longest = max(len(row.request.prompt) + row.budget for row in rows)
        nodes = self._padded(max(row.request.tree.max_nodes for row in rows))
        return longest + nodes * (1 + depth_of(rows))

    def _padded(self, nodes: int) -> int:
        """How many nodes a pass has whose largest tree has so many."""
        return whole(nodes, self.shapes.rows)

    def _trees(
        self,
        rows: list[Row],
        trees: list[DraftTree],
        sources: list[list[int]],
        cache: TreeCache,
        pruning: Pruning | None = None,
    ) -> States:
        """One forward over these trees of the rows."""
        with self.timer(MASKS):
            nodes = whole(max(map(len, trees)), self.shapes.rows)
            written = nodes + len(sources[0]) * depth_of(rows)
            spans = (cache.span(nodes), cache.span(written))
            inputs = self._inputs(rows, trees, cache.lengths, sources, nodes, spans, self._like())
        now = self._pass(rows, inputs, cache.end + written)
        if now.plan is None:
            return States(*self._forward(now, cache), sources)
        now.plan.prune = pruning
        hidden, streams = self._forward(now, cache)
        hidden = now.plan.of_main(hidden)
        return States(hidden, streams, sources)

    def _inputs(
        self,
        rows: list[Row],
        trees: list[DraftTree],
        lengths: list[int],
        sources: list[list[int]],
        nodes: int,
        spans: tuple[int, int],
        like: Tensor,
    ) -> TreeInputs:
        """What the model reads in a pass over trees of the rows; see `TreeInputs.of`."""
        return TreeInputs.of(
            trees,
            lengths,
            sources,
            nodes=nodes,
            num_streams=depth_of(rows),
            spans=spans,
            windows=self.backbone.windows,
            last_position=self.backbone.context_length - 1,
            like=like,
        )

    def _pass(self, rows: list[Row], inputs: TreeInputs, used: int) -> Pass:
        """The pass over trees of the rows; `used`: slots of the cache that any row has in use."""
        plan = self._plan(rows, inputs.sources) if inputs.upper else None
        if plan is not None:
            plan.masks, plan.slots, plan.used = inputs.upper, inputs.slots[:, inputs.ids.shape[1] :], used
        return Pass(plan, _adapters(rows), inputs.ids, inputs.positions, inputs.lower)

    def _forward(self, now: Pass, cache: Cache) -> Output:
        """The decoder on a pass: what the head reads of the main rows [B, R, h], and streams [B, m, g, h] raw."""
        with self.timer(LAYERS), announced(now):
            hidden = self.backbone.decoder(
                input_ids=now.ids,
                position_ids=now.positions,
                # One of them; the hooks give every layer that of its window.
                attention_mask=next(iter(now.masks.values()), None),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        if now.plan is None or now.plan.streams is None:
            return hidden, None
        return hidden, now.plan.streams.unflatten(1, (-1, now.plan.num_streams))

    def _plan(self, rows: list[Row], sources: Tensor) -> StreamPlan | None:
        """As many streams beside each of sources [B, m] as the row with most of them uses; None if no row has any."""
        # A tree of depth 0 uses no stream of its adapter.
        modules = streams_of_rows([row.request.streams if row.request.stream_depth else None for row in rows])
        return None if modules is None else StreamPlan(modules, sources, depth_of(rows))

    def new_cache(self, rows: Sequence[Row]) -> TreeCache:
        """An empty cache with room for these rows to their end (`slots_needed`)."""
        anatomy, size, layers = self.backbone.anatomy, self.slots_needed(rows), self.backbone.num_layers
        return self._cache(layers, len(rows), anatomy.heads, size, anatomy.width, self._like(), self.shapes)

    def _cache(self, *shape: Any) -> TreeCache:
        """A cache of this shape; see `TreeCache`."""
        return TreeCache(*shape)

    def _like(self) -> Tensor:
        """A tensor of the dtype and device that keys, values and masks have."""
        return self.backbone.model.get_input_embeddings().weight


def _adapters(rows: Sequence[Row]) -> list[object]:
    return [row.request.adapter for row in rows]


def depth_of(rows: Sequence[Row]) -> int:
    """g: streams beside a node, as many as the row with most of them uses."""
    return max(row.request.stream_depth for row in rows)
