"""Attention masks of one decoding pass over a batch of trees, each row with its own length (paper §3.2.1, §3.2.2)."""

import numpy as np
import torch
from torch import Tensor

from ssft.base.kernels.shapes import Shapes
from ssft.decoding.tree import DraftTree, ancestor_mask


def tree_masks(
    trees: list[DraftTree],
    lengths: list[int],
    nodes: int,
    sources: list[list[int]],
    num_streams: int,
    like: Tensor,
    window: int | None = None,
    shapes: Shapes = Shapes(),  # noqa: B008 (frozen)
) -> tuple[Tensor, Tensor | None]:
    """Additive masks (0 or the dtype's minimum) over the cache's slots.

    With length 2, a chain n0-n1 of nodes, streams beside n1 only, g = 2 (columns x0 x1 | n0 n1 | 1/1 1/2):

        n0    1 1 | 1 0 | 0 0
        n1    1 1 | 1 1 | 0 0
        1/1   1 1 | 1 1 | 1 0
        1/2   1 1 | 1 1 | 1 1

    A row's slots start at its own length; rows that are padding see only themselves.

    Args:
        trees: B draft trees.
        lengths: [B] tokens in the cache before the pass.
        nodes: n, rows of the largest tree; smaller ones are padded.
        sources: [B][m] nodes that carry streams, equally many per row.
        num_streams: g streams per source.
        like: gives dtype and device.
        window: tokens that a node sees of its past, itself included; its streams see what it sees. None: all.
        shapes: how many slots there are then; `nodes` is a multiple of its rows already.

    Returns:
        lower [B, 1, n, end + n] for the layers without streams; upper [B, 1, n + m·g, end + n + m·g], or None if
        there are no sources.
    """
    end, extra = max(lengths), len(sources[0]) * num_streams
    slots = shapes.span(end + nodes + extra)
    seen = np.zeros((len(trees), nodes + extra, slots), dtype=bool)
    for row, (tree, length) in enumerate(zip(trees, lengths, strict=True)):
        size = len(tree)
        block = np.eye(nodes, dtype=bool)
        depths = np.array(tree.depths)
        # A cached token's depth is negative: -1 stands right before the root.
        before = depths[:, None] - (window or np.inf)
        cached = np.arange(-length, 0) > before
        block[:size, :size] = ancestor_mask(tree) & (depths > before)
        seen[row, :nodes, length : length + nodes] = block
        seen[row, :size, :length] = cached
        if extra:
            streams = slice(length + nodes, length + nodes + extra)
            own = seen[row, nodes : nodes + extra]
            own[:, length : length + nodes] = block[sources[row]].repeat(num_streams, axis=0)
            own[:, :length] = cached[sources[row]].repeat(num_streams, axis=0)
            triangle = np.tril(np.ones((num_streams, num_streams), dtype=bool))
            own[:, streams] = np.kron(np.eye(len(sources[row]), dtype=bool), triangle)
    mask = torch.zeros(seen.shape, dtype=like.dtype)
    mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(like.dtype).min)
    mask = mask.unsqueeze(1).to(like.device)
    lower = mask[:, :, :nodes, : shapes.span(end + nodes)]
    return (lower.contiguous(), mask) if extra else (lower, None)
