"""What may stand under the nodes of a row's draft tree: a drafter's guesses, what a lookup finds, and a grammar's say.

The guesses go by a node's depth, the lookup by its path. Of both together the likeliest are taken; where no guess
reaches, the lookup stands alone. With a grammar, tokens that alone may come stand in the tree as certain,
whatever was offered in their place, and tokens that it forbids are left out:

    grammar   {"name": "⟨string⟩", "kind": ⟨"a" or "b"⟩}
    tree      root ── {" ── name ── ": ── " ─┬─ the streams' guesses 5 places after the root
                                             └─ what came earlier after name": "
"""

from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.grammar.parser import Parser
from ssft.decoding.row import Row
from ssft.decoding.tree import NOTHING, DraftTree, Offer, grow, merged


def grown(row: Row, guesses: Guesses | None, nodes: int) -> DraftTree:
    """The draft under the token that the row issued last, of at most so many nodes; a root alone drafts nothing.

    guesses: of the tokens after that one; None where nothing is known. A row without a drafter drafts nothing.
    """
    tree = DraftTree([row.tree.tokens[0]])
    if (drafter := row.request.drafter) is not None:
        offers = _Likely(tree, row, guesses or Guesses([], []))
        parser = row.parser if drafter.reads_grammar else None
        under = offers.under if parser is None else _Permitted(offers, row, parser).under
        grow(tree, under, row.request.tree.kind, nodes)
    return tree


class _Likely:
    """What guesses and a lookup offer under the nodes of a tree."""

    def __init__(self, tree: DraftTree, row: Row, guesses: Guesses) -> None:
        config = row.request.tree
        self.tree, self.guesses, self.lookup = tree, guesses, row.lookup
        self.width, self.deepest = config.width, row.left - 1
        most = min(self.deepest, config.max_depth or self.deepest)
        self.guessed = min(len(guesses.tokens), most)
        self.looked_up = 0 if row.lookup is None else most

    def under(self, node: int) -> Offer:
        """The likeliest tokens, as many as may stand under one node."""
        tokens, scores = self.all(node)
        return tokens[: self.width], scores[: self.width]

    def all(self, node: int) -> Offer:
        """All tokens that are offered, best first."""
        depth, offer = self.tree.depths[node], NOTHING
        if depth < self.guessed:
            offer = self.guesses.tokens[depth], self.guesses.scores[depth]
        if self.lookup is not None and depth < self.looked_up:
            offer = merged(offer, self.lookup.offer(self.tree.trail(node)))
        return offer


class _Permitted:
    """What may stand under the nodes of a tree by a grammar."""

    def __init__(self, offers: _Likely, row: Row, parser: Parser) -> None:
        self.offers, self.parser = offers, parser
        # Nothing comes after an end, so that it is of no use in a draft: who accepts the node before it issues it.
        self.ends = row.request.ends
        self._runs: dict[int, list[int]] = {}

    def under(self, node: int) -> Offer:
        """The forced token, else those of the offers that may come there; nothing where the row ends."""
        offers, tree = self.offers, self.offers.tree
        if tree.depths[node] >= offers.deepest:
            return NOTHING
        run = self._runs.get(tree.parents[node], [])[1:]  # the parent's only child, where something is forced
        trail = tree.trail(node)
        if run := run or self.parser.forced(trail):
            self._runs[node] = run
            return run[:1], [0.0]
        pairs = [pair for pair in zip(*offers.all(node), strict=True) if pair[0] not in self.ends]
        if not pairs:
            return NOTHING
        places = self.parser.permitted(trail, [token for token, _ in pairs], offers.width)
        return [pairs[place][0] for place in places], [pairs[place][1] for place in places]
