"""`Pruning`: branches under an unlikely edge leave a pass at the insertion layer (paper §3.2.3).

The nodes have run through the layers without streams. There early-exit logits tell how likely each child is,

    p(child | parent) ≈ softmax(H(o_θ(M_parent^{N-N_s})))[child]

and what is not likely enough goes no further, with all that stands under it. The main stream verifies what is left, so
that no text can change: a token whose node was dropped is issued by the main stream itself, at the node above.

    nodes    n0 ─┬─ n1 ─── n3       p(n1 | n0) below the threshold
                 └─ n2 ─── n4       left: n0 n2 n4, of which n2 and n4 keep their places in the cache

A pass has one width for all rows of a batch. A row of which less is left than of another takes back the first of what
was dropped: beside the other's nodes they cost nothing.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssft.base.kernels.shapes import whole
from ssft.decoding.cache import TreeCache
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.inputs import padded
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree
from ssft.streams.modules import StreamModules
from ssft.streams.plan import Left, picked

if TYPE_CHECKING:
    from ssft.decoding.step import Step


class Pruning:
    """What a pass over the rows' trees asks where streams start (`StreamPlan.prune`)."""

    def __init__(
        self, step: "Step", rows: Sequence[Row], sources: list[list[int]], cache: TreeCache, num_streams: int
    ) -> None:
        """sources [B][m]: the nodes with streams, of which each has `num_streams` rows."""
        self.step, self.rows, self.sources = step, rows, sources
        self.cache, self.num_streams = cache, num_streams
        self.last = min(n for row in rows if row.request.stream_depth for n in _streams(row).msa_layers)
        # Of every row: the nodes that are likely enough, all where nobody judges; then those that go on.
        self.likely = [list(range(len(row.tree))) for row in rows]
        self.nodes: list[list[int]] | None = None

    def __call__(self, msa_layers: int, main: Tensor) -> Left | None:
        """Judge the rows whose N_s is `msa_layers` by their main states [B, R, h]; once all are judged, drop."""
        groups: dict[tuple[int, int], list[int]] = {}
        for b, row in enumerate(self.rows):
            if _may_drop(row) and msa_layers in _streams(row).msa_layers:
                groups.setdefault((id(_streams(row)), id(_drafter(row).vocabulary)), []).append(b)
        for places in groups.values():
            rows = [self.rows[b] for b in places]
            for b, row, edges in zip(places, rows, self._edges(rows, main[places]), strict=True):
                tree = row.request.tree
                self.likely[b] = likely_nodes(row.tree, edges, tree.prune_below, tree.prune_keep)
        return self._left(main) if msa_layers == self.last else None

    def finish(self) -> list[list[int]]:
        """Let the rows' trees be what was left of them, and say which of their nodes have streams: [B][m], -1 none."""
        for row, nodes in zip(self.rows, self.nodes or [], strict=self.nodes is not None):
            row.tree = row.tree.pick([node for node in nodes if node < len(row.tree)])
        return self.sources

    def _edges(self, rows: list[Row], main: Tensor) -> list[list[float]]:
        """log p(node | its parent) of every node of rows with one vocabulary; main [d, R, h] are their states."""
        parents = [sorted({*row.tree.parents[1:]}) for row in rows]  # the head costs most, and leaves do not need it
        states = picked(main, padded(parents, main.device))
        states = self.step.backbone.finish(_streams(rows[0]).early_exit(states))
        vocabulary = _drafter(rows[0]).vocabulary
        if vocabulary is None:
            logits = self.step.logits(rows, states).float()
        else:
            logits = vocabulary.logits(rows, self.step.logits, states)
        logits = logits / logits.new_tensor([row.request.temperature for row in rows]).view(-1, 1, 1)
        edges = [_own_word(row.tree) for row in rows]
        judged: list[tuple[int, int, int, int]] = []  # row, node, place of the parent, column
        for i, row in enumerate(rows):
            place = {parent: k for k, parent in enumerate(parents[i])}
            columns = None if vocabulary is None else vocabulary.of(row).places
            for node in range(1, len(row.tree)):
                token = row.tree.tokens[node]
                column = token if columns is None else columns.get(token)
                # What a grammar forces is certain, whatever the head says.
                if column is not None and edges[i][node] < 0:
                    judged.append((i, node, place[row.tree.parents[node]], column))
        if judged:
            of_row, nodes, places, columns_ = (list(values) for values in zip(*judged, strict=True))
            found = logits[of_row, places, columns_] - logits.logsumexp(dim=-1)[of_row, places]
            for i, node, score in zip(of_row, nodes, found.clamp(max=0).tolist(), strict=True):
                edges[i][node] = score
        return edges

    def _left(self, main: Tensor) -> Left | None:
        """The rows of the pass that go on; None where none would be spared."""
        whole_pass = main.shape[1]
        width = whole(max(map(len, self.likely)), self.step.shapes.rows)
        if width >= whole_pass:
            return None
        self.nodes = [_filled(likely, width, whole_pass) for likely in self.likely]
        kept = [{node: place for place, node in enumerate(nodes)} for nodes in self.nodes]
        # A source that stands twice, as padding, has its streams once.
        found = [
            [place for place, node in enumerate(own) if node in of_row and node not in own[:place]]
            for own, of_row in zip(self.sources, kept, strict=True)
        ]
        most, beside = max(1, *map(len, found)), len(self.sources[0])
        groups = [_filled(places, most, beside) for places in found]
        self.sources = [
            [of_row[own[place]] if place in places else -1 for place in filled]
            for own, of_row, places, filled in zip(self.sources, kept, found, groups, strict=True)
        ]
        g = self.num_streams
        rows = [
            nodes + [whole_pass + place * g + j for place in filled for j in range(g)]
            for nodes, filled in zip(self.nodes, groups, strict=True)
        ]
        index = torch.tensor(rows, device=main.device)
        self.cache.write_only(index, self.nodes, whole_pass + beside * g)
        return Left(index, width, torch.tensor(self.sources, device=main.device).clamp(min=0))


def pruning_of(
    step: "Step", rows: Sequence[Row], sources: list[list[int]], cache: TreeCache, num_streams: int
) -> Pruning | None:
    """The pruning of a pass; None where no node could be spared, be it for a neighbour that needs as many."""
    if not sources[0]:
        return None
    widest = max(len(row.tree) for row in rows)
    needed = max((len(row.tree) for row in rows if not _may_drop(row)), default=1)
    if whole(needed, step.shapes.rows) >= whole(widest, step.shapes.rows):
        return None
    return Pruning(step, rows, sources, cache, num_streams)


def likely_nodes(tree: DraftTree, edges: Sequence[float], below: float, keep: int) -> list[int]:
    """The nodes that go on, ascending; the root always does, and a node only if its parent does.

    Args:
        edges: log p(node | its parent) of every node, at most 0; 0 at the root.
        below: nodes whose own p is below that are dropped with all that stands under them; 0: none.
        keep: most nodes that go on, the root included, of the others those whose paths are likeliest; 0: all.
    """
    least = math.log(below) if below else -math.inf
    paths, nodes = [0.0], [0]
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        alive = paths[parent] > -math.inf and edges[node] >= least
        paths.append(paths[parent] + edges[node] if alive else -math.inf)
        if alive:
            nodes.append(node)
    # A stable sort: of equals the parent, which stands before its children, comes first.
    return sorted(sorted(nodes, key=lambda node: -paths[node])[:keep]) if keep else nodes


def _may_drop(row: Row) -> bool:
    """Whether the row's tree could lose nodes: below a threshold, or beyond the number that goes on."""
    tree = row.request.tree
    return row.request.prunes and len(row.tree) > 1 and bool(tree.prune_below or len(row.tree) > tree.prune_keep)


def _own_word(tree: DraftTree) -> list[float]:
    """log p(node | its parent) as the draft itself has it: for tokens that the early exit does not know."""
    return [0.0, *(tree.scores[node] - tree.scores[tree.parents[node]] for node in range(1, len(tree)))]


def _filled(chosen: list[int], width: int, size: int) -> list[int]:
    """`chosen`, ascending, and the first others below `size`, so that there are `width` of them."""
    taken = set(chosen)
    others = [i for i in range(size) if i not in taken]
    return sorted([*chosen, *others[: width - len(chosen)]])


def _drafter(row: Row) -> StreamDrafter:
    """Who drafts for a row that prunes."""
    drafter = row.request.drafter
    assert isinstance(drafter, StreamDrafter)
    return drafter


def _streams(row: Row) -> StreamModules:
    streams = row.request.streams
    assert streams is not None
    return streams
