"""The budget that an adapter's `TreeConfig` fixes, whatever a pass costs and whatever is accepted."""

from ssft.decoding.draft.grown import grown
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree, stop_order


def fixed_tree(row: Row, rows: int) -> DraftTree:
    """The next tree of `row`, with the nodes that its configuration gives it while `rows` rows share a pass."""
    return grown(row, row.guesses, row.request.tree.nodes_in_batch(rows))


def fixed_sources(row: Row) -> list[int]:
    """Nodes of the row's tree that carry streams, as it is configured."""
    tree, request = row.tree, row.request
    if request.stream_depth == 0:
        return []
    most = request.tree.max_stream_nodes or request.tree.max_nodes
    return list(range(len(tree))) if len(tree) <= most else sorted(stop_order(tree)[:most])


def padded(sources: list[list[int]]) -> list[list[int]]:
    """[B][m]: a row with fewer stream nodes than another repeats its root, which costs nothing beside the other's."""
    width = max(map(len, sources))
    return [nodes + [0] * (width - len(nodes)) for nodes in sources]
