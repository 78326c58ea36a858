"""The budget that an adapter's `TreeConfig` fixes, whatever a pass costs and whatever is accepted."""

from ssft.decoding.row import Row
from ssft.decoding.tree import stop_order


class FixedBudget:
    """Nodes and stream nodes as the rows' trees are configured."""

    def nodes(self, row: Row, rows: int) -> int:
        """Nodes that the next tree of `row` may have while `rows` rows share a pass."""
        return row.request.tree.nodes_in_batch(rows)

    def sources(self, rows: list[Row]) -> list[list[int]]:
        """[B][m] nodes that carry streams; a row with fewer nodes repeats its root, which costs nothing extra."""
        chosen = [self._stream_nodes(row) for row in rows]
        width = max(len(nodes) for nodes in chosen)
        return [nodes + [0] * (width - len(nodes)) for nodes in chosen]

    def _stream_nodes(self, row: Row) -> list[int]:
        tree, request = row.tree, row.request
        if request.stream_depth == 0:
            return []
        most = request.tree.max_stream_nodes or request.tree.max_nodes
        return list(range(len(tree))) if len(tree) <= most else sorted(stop_order(tree)[:most])
