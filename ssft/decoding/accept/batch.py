"""Which path of every row's tree is the text: greedily at all nodes at once, or walked where a row asks for more."""

from collections.abc import Callable

from torch import Tensor

from ssft.decoding.accept.greedy import accept_greedy
from ssft.decoding.accept.sampled import accept_sampled
from ssft.decoding.row import Row


def accept(rows: list[Row], logits: Tensor) -> tuple[list[list[int]], list[int]]:
    """Of every row: the accepted path of its tree, and the token that the main stream issues after it.

    logits [B, n, V] are the main stream's at the nodes.
    """
    found = accept_sampled({b: row for b, row in enumerate(rows) if not row.request.greedy}, logits)
    if len(found) < len(rows):
        # max, of whose equals the first counts as argmax's does, takes a fifth of its time in bfloat16 on a CPU.
        for b, choices in enumerate(logits.max(dim=-1).indices.tolist()):
            if b not in found:
                found[b] = accept_greedy(rows[b].tree, _chosen(choices))
    return [found[b][0] for b in range(len(rows))], [found[b][1] for b in range(len(rows))]


def _chosen(choices: list[int]) -> Callable[[list[int]], int]:
    """The main stream's own choices [n] as a function of the path."""
    return lambda path: choices[path[-1]]
