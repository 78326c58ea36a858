"""Greedy verification of a draft tree: which path would the main stream itself have produced? (paper §3.2.2)"""

from collections.abc import Callable

from ssft.decoding.tree import DraftTree


def accept_greedy(tree: DraftTree, choose: Callable[[list[int]], int]) -> tuple[list[int], int]:
    """The longest path from the root on which every node's token is the main stream's own choice at its parent.

    Args:
        tree: the draft, n nodes.
        choose: path of nodes (the root first) -> the token that the main stream issues after its last node; asked once
            per node of the accepted path, so a choice may depend on all of the path and cost something.

    Returns:
        The accepted path, the root first, and the token issued after its last node.
    """
    children = tree.children()
    path = [0]
    while True:
        token = choose(path)
        child = children.get(path[-1], {}).get(token)
        if child is None:
            return path, token
        path.append(child)
