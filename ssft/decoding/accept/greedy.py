"""Greedy verification of a draft tree: which path would the main stream itself have produced? (paper §3.2.2)"""

from collections.abc import Callable

import torch
from torch import Tensor

from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree


def accept(rows: list[Row], logits: Tensor) -> tuple[list[list[int]], list[int]]:
    """Of every row: the accepted path of its tree, and the token that the main stream issues after it.

    logits [B, n, V] are the main stream's at the nodes.
    """
    choices = logits.argmax(dim=-1).tolist()
    paths, issued = [], []
    for b, row in enumerate(rows):
        choose = _processed(row, logits[b]) if row.request.processors else _chosen(choices[b])
        path, token = accept_greedy(row.tree, choose)
        paths.append(path)
        issued.append(token)
    return paths, issued


def accept_greedy(tree: DraftTree, choose: Callable[[list[int]], int]) -> tuple[list[int], int]:
    """The longest path from the root on which every node's token is the main stream's own choice at its parent.

    Args:
        tree: the draft, n nodes.
        choose: path of nodes (the root first) -> the token that the main stream issues after its last node; asked once
            per node of the accepted path, so a choice may depend on all of the path and cost something.

    Returns:
        The accepted path, the root first, and the token issued after its last node.
    """
    children: dict[int, dict[int, int]] = {}
    for node in range(1, len(tree)):
        # The first node wins if two siblings carry one token: both lead on to the same text.
        children.setdefault(tree.parents[node], {}).setdefault(tree.tokens[node], node)
    path = [0]
    while True:
        token = choose(path)
        child = children.get(path[-1], {}).get(token)
        if child is None:
            return path, token
        path.append(child)


def _chosen(choices: list[int]) -> Callable[[list[int]], int]:
    """The main stream's own choices [n] as a function of the path."""
    return lambda path: choices[path[-1]]


def _processed(row: Row, logits: Tensor) -> Callable[[list[int]], int]:
    """Choices after the row's logits processors: each node of logits [n, V] with its own path as history."""
    # The last of these is the root of the tree.
    history = row.request.prompt + row.result.token_ids

    def choose(path: list[int]) -> int:
        ids = torch.tensor([history + [row.tree.tokens[node] for node in path[1:]]], device=logits.device)
        scores = logits[path[-1]].unsqueeze(0).to(torch.float32, copy=True)
        for processor in row.request.processors:
            scores = processor(ids, scores)
        return int(scores.argmax(dim=-1))

    return choose
