"""What a drafter guessed, and what a grammar says of it, as a row's draft tree.

With a grammar, tokens that alone may come stand in the tree as certain, whatever was guessed in their place, and
guesses that it forbids are left out:

    grammar   {"name": "⟨string⟩", "kind": ⟨"a" or "b"⟩}
    tree      root ── {" ── name ── ": ── " ─┬─ the streams' guesses 5 places after the root
                                             └─ …
"""

from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.grammar.parser import Parser
from ssft.decoding.row import Row
from ssft.decoding.tree import NOTHING, DraftTree, Offer, grow, grow_tree


def grown(row: Row, guesses: Guesses | None, nodes: int) -> DraftTree:
    """The draft under the token that the row issued last, of at most so many nodes; a root alone drafts nothing.

    guesses: of the tokens after that one; None where nothing is known. A row without a drafter drafts nothing.
    """
    root, config = row.tree.tokens[0], row.request.tree
    drafter = row.request.drafter
    if row.parser is not None and drafter is not None and drafter.reads_grammar:
        tree = DraftTree([root])
        grow(tree, _Permitted(tree, row, row.parser, guesses or Guesses([], [])).offer, config.kind, nodes)
        return tree
    if guesses is None:
        return DraftTree([root])
    return grow_tree(root, guesses.tokens, guesses.scores, config, row.left - 1, nodes)


class _Permitted:
    """What may stand under the nodes of a tree by the grammar and the guesses."""

    def __init__(self, tree: DraftTree, row: Row, parser: Parser, guesses: Guesses) -> None:
        config, request = row.request.tree, row.request
        self.tree, self.parser, self.guesses = tree, parser, guesses
        self.width, self.deepest = config.width, row.left - 1
        self.guessed = min(len(guesses.tokens), config.max_depth or len(guesses.tokens))
        # Nothing comes after an end, so that it is of no use in a draft: who accepts the node before it issues it.
        self.ends = request.ends
        self._runs: dict[int, list[int]] = {}

    def offer(self, node: int) -> Offer:
        """The forced token, else the guesses that may come there; nothing where the row ends."""
        depth = self.tree.depths[node]
        if depth >= self.deepest:
            return NOTHING
        run = self._runs.get(self.tree.parents[node], [])[1:]  # the parent's only child, where something is forced
        trail = self.tree.trail(node)
        if run := run or self.parser.forced(trail):
            self._runs[node] = run
            return run[:1], [0.0]
        if depth >= self.guessed:
            return NOTHING
        guessed = zip(self.guesses.tokens[depth], self.guesses.scores[depth], strict=True)
        pairs = [(token, score) for token, score in guessed if token not in self.ends]
        may = self.parser.permitted(trail, [token for token, _ in pairs])
        kept = [pair for pair, fits in zip(pairs, may, strict=True) if fits][: self.width]
        return [token for token, _ in kept], [score for _, score in kept]
