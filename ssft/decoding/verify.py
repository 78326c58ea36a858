"""Verification of a draft tree: which path would the main stream itself have produced? (paper §3.2.2)"""

from ssft.decoding.tree import DraftTree


def accept_greedy(tree: DraftTree, choices: list[int]) -> list[int]:
    """The longest path from the root on which every node's token is the main stream's own choice at its parent.

    Args:
        tree: the draft, n nodes.
        choices: [n] token that the main stream issues after each node (its argmax).

    Returns:
        Node indices of the accepted path, the root first; `choices` at its last node is the next token.
    """
    path = [0]
    children: dict[int, dict[int, int]] = {}
    for node in range(1, len(tree)):
        # The first node wins if two siblings carry one token: both lead on to the same text.
        children.setdefault(tree.parents[node], {}).setdefault(tree.tokens[node], node)
    while (child := children.get(path[-1], {}).get(choices[path[-1]])) is not None:
        path.append(child)
    return path
