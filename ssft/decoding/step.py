"""`Step`: one forward of the model over a batch's prompts, or over its draft trees (paper §3.2.2, appendix A.1)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ssft.base.kernels.shapes import Shapes, whole
from ssft.decoding.cache import TreeCache
from ssft.decoding.masks import tree_masks
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


@dataclass
class States:
    """What a pass leaves: main [B, n, h] as the head reads it, streams [B, m, g, h] raw, sources [B][m] their nodes."""

    main: Tensor
    streams: Tensor | None
    sources: list[list[int]]

    def select(self, rows: list[int]) -> "States":
        """These rows of the batch, in this order; one may come several times."""
        streams = None if self.streams is None else self.streams[rows]
        return States(self.main[rows], streams, [self.sources[row] for row in rows])


class Step:
    """Passes of one model, whose stream hooks are `hooks`; it keeps nothing between them."""

    def __init__(self, hooks: StreamHooks, timer: Timer | None = None) -> None:
        """`timer` measures the parts of a pass; without one nothing is measured."""
        self.hooks = hooks
        self.backbone = hooks.backbone
        self.shapes = Shapes.of(self._like().dtype, self._like().device, self.backbone.anatomy.width)
        self.timer: Timer = timer or (lambda _part: nullcontext())

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
                ids = _padded(prompts, cache.store.device)
                positions = torch.arange(ids.shape[1], device=ids.device).expand(len(rows), -1)
                hidden, streams = self._forward(Pass(self._plan(rows, last), _adapters(rows), ids, positions), cache)
            # The streams' slots and the padding lie behind the lengths set here: the next pass overwrites them.
            cache.set_lengths(lengths)
            main = hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
            return States(main, streams, [[0]] * len(rows)), cache

    def trees(self, rows: list[Row], sources: list[list[int]], cache: TreeCache) -> States:
        """One forward over every row's tree: [B, n] nodes, then g streams beside the m nodes `sources` [B][m]."""
        return self._trees(rows, [row.tree for row in rows], sources, cache)

    def logits(self, rows: Sequence[Row], hidden: Tensor, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Finished states [B, .., h] of these rows -> logits [B, .., V]; the head, too, may carry a LoRA.

        `head` stands in for the model's own, and gives the logits of the token ids that it has rows for.
        """
        with self.timer(HEAD), announced(Pass(adapters=_adapters(rows))):
            return self.backbone.logits(hidden, head)

    def slots_needed(self, rows: Sequence[Row]) -> int:
        """Room for the longest row to its end and, behind it, one pass of tree nodes and their streams."""
        longest = max(len(row.request.prompt) + row.budget for row in rows)
        nodes = whole(max(row.request.tree.max_nodes for row in rows), self.shapes.rows)
        return longest + nodes * (1 + max(row.request.stream_depth for row in rows))

    def _trees(self, rows: list[Row], trees: list[DraftTree], sources: list[list[int]], cache: TreeCache) -> States:
        """One forward over these trees of the rows."""
        device = cache.store.device
        with self.timer(MASKS):
            nodes = whole(max(map(len, trees)), self.shapes.rows)
            ids = _padded([tree.tokens for tree in trees], device, nodes)
            # A draft may point past the context's end; such nodes are never reached, but learned positions stop there.
            limit = self.backbone.context_length - 1
            places = zip(trees, cache.lengths, strict=True)
            depths = [[min(length + depth, limit) for depth in tree.depths] for tree, length in places]
            positions = _padded(depths, device, nodes)
            depth = max(row.request.stream_depth for row in rows)
            masks = {
                window: tree_masks(trees, cache.lengths, nodes, sources, depth, self._like(), window, self.shapes)
                for window in set(self.backbone.windows)
            }
        lower = {window: below for window, (below, _) in masks.items()}
        upper = {window: above for window, (_, above) in masks.items() if above is not None}
        plan = None
        if upper:
            plan = self._plan(rows, torch.tensor(sources, device=device))
        if plan is not None:
            extra = len(sources[0]) * depth
            plan.masks, plan.slots = upper, cache.slots(nodes + extra)[:, nodes:]
            plan.used = cache.end + nodes + extra
        hidden, streams = self._forward(Pass(plan, _adapters(rows), ids, positions, lower), cache)
        return States(hidden, streams, sources)

    def _forward(self, now: Pass, cache: TreeCache) -> tuple[Tensor, Tensor | None]:
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
        depth = max(row.request.stream_depth for row in rows)
        return None if modules is None else StreamPlan(modules, sources, depth)

    def new_cache(self, rows: Sequence[Row]) -> TreeCache:
        """An empty cache with room for these rows to their end (`slots_needed`)."""
        anatomy, size, layers = self.backbone.anatomy, self.slots_needed(rows), self.backbone.num_layers
        return TreeCache(layers, len(rows), anatomy.heads, size, anatomy.width, self._like(), self.shapes)

    def _like(self) -> Tensor:
        """A tensor of the dtype and device that keys, values and masks have."""
        return self.backbone.model.get_input_embeddings().weight


def _adapters(rows: Sequence[Row]) -> list[object]:
    return [row.request.adapter for row in rows]


def _padded(lists: list[list[int]], device: torch.device, width: int = 0) -> Tensor:
    """[B][..] -> [B, width, or what the longest needs], shorter ones filled with 0 on the right."""
    width = max(width, *map(len, lists))
    return torch.tensor([values + [0] * (width - len(values)) for values in lists], device=device)
