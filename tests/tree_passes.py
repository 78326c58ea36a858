"""Two prompts with draft trees made by hand, and a decoding pass over them."""

import torch

from ssft.decoding.budget.fixed import fixed_sources, padded
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree

PROMPTS = [[5, 9, 11, 30, 7], [40, 8]]
TREES = [
    # 1 ─┬─ 2 ─┬─ 4
    #    │     └─ 5
    #    └─ 3 ─── 6
    DraftTree([1, 2, 3, 4, 5, 6], [-1, 0, 0, 1, 1, 2], [0, 1, 1, 2, 2, 2], [0.0] * 6),
    DraftTree([17, 18, 19], [-1, 0, 1], [0, 1, 2], [0.0] * 3),
]


def ancestors(tree, node):
    """Nodes from the root down to `node`."""
    return [] if node < 0 else [*ancestors(tree, tree.parents[node]), node]


def rows_of(decoder, prompts, trees):
    """Rows of a batch as the engine holds them, with their next draft made to order."""
    return [Row(decoder.request(prompt, 9), 9, tree) for prompt, tree in zip(prompts, trees, strict=True)]


def sources_of(rows):
    """Every node of every tree."""
    return padded([fixed_sources(row) for row in rows])


def decode_pass(decoder, prompts, trees, before_tree=lambda: None):
    """Streams [B, n, γ, h] and main states [B, n, h] of a tree pass after the prompts' pass, every node a source."""
    with torch.inference_mode():
        rows = rows_of(decoder, prompts, trees)
        _, cache = decoder.step.prompts(rows)
        before_tree()
        states = decoder.step.trees(rows, sources_of(rows), cache)
        streams = states.streams
        nodes = max(len(tree) for tree in trees)
        ordered = torch.zeros(len(trees), nodes, *streams.shape[2:])
        for row, sources in enumerate(states.sources):
            for slot, node in enumerate(sources):
                ordered[row, node] = streams[row, slot]
    return ordered, states.main
