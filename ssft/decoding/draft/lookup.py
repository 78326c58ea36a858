"""Prompt lookup: what came earlier after the same last tokens, as an offer under any node of a draft tree.

A row's history is its prompt and its answer so far. Of every run of up to `LONGEST` tokens in it, an index knows which
tokens came after that run, the latest first. The end of the history, with the path of a node behind it, is looked up
from the longest run to the shortest; the first run that is known gives the node's children:

    history   … # Person 1 # told Ms. Daw son that # Person          a node at the end of the path "1"
    runs      "that # Person 1" is new, "# Person 1" is known        its child "#", by a match of 3
    then      "# Person 1 #" is known                                that one's child "told", by a match of 4, and so on

So a copied phrase is drafted to its end, however deep, while the streams reach γ tokens.

The probability of a child is how often such children came (`HitRates`). Every token of an answer is a trial of what the
lookup offers at its place, whether or not that stood in a tree.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Optional

from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.tree import NOTHING, Offer

LONGEST = 4
"""Tokens of the longest run that is looked up."""
RANKS = 4
"""Different tokens that the index keeps behind a run, the latest first."""
PRIOR = 3.0
"""Trials that what is known beforehand weighs."""


class HitRates:
    """How often the token that came was the one of some rank behind a match of some length.

    With h hits in t trials, and p what is known beforehand (the rate of `parent`, else 1/3, 1/6, 1/9, 1/12 by rank):

        rate = (h + PRIOR · p) / (t + PRIOR)

    which is the mean of a Beta distribution. Without a parent the latest token begins with Beta(1, 2): 1/3, after one
    hit (1 + 1) / (1 + 3) = 1/2, after another 3/5, after a miss then 3/6. A row has its drafter's rates as parent, so
    that the first draft of an answer knows what other answers taught, and the answer soon counts for more.
    """

    def __init__(self, parent: Optional["HitRates"] = None) -> None:
        self.parent = parent
        # [length - 1][rank] hits and trials.
        self._counts = [[[0, 0] for _ in range(RANKS)] for _ in range(LONGEST)]

    def rate(self, length: int, rank: int) -> float:
        """The probability, above 0 and below 1, of the token of this rank behind a match of this length."""
        hits, trials = self._counts[length - 1][rank]
        before = 1 / (PRIOR * (rank + 1)) if self.parent is None else self.parent.rate(length, rank)
        return (hits + PRIOR * before) / (trials + PRIOR)

    def judge(self, length: int, tokens: Sequence[int], came: int) -> None:
        """Learn which of the tokens behind a match of this length came, if any."""
        for rank, token in enumerate(tokens):
            counts = self._counts[length - 1][rank]
            counts[0] += token == came
            counts[1] += 1
        if self.parent is not None:
            self.parent.judge(length, tokens, came)


class Lookup:
    """The index of one row's history; a token costs as much as it has runs, whatever the history's length."""

    def __init__(self, prompt: Iterable[int], rates: HitRates) -> None:
        """rates: of this row alone; the prompt's own tokens teach it nothing, as nobody says them anew."""
        self.rates = rates
        self._after: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._last: tuple[int, ...] = ()
        for token in prompt:
            self._add(token)

    def advance(self, token: int) -> None:
        """A token of the answer: what would have been offered in its place is judged, then it joins the history."""
        length, tokens = self._find(self._last)
        if length:
            self.rates.judge(length, tokens, token)
        self._add(token)

    def offer(self, trail: Sequence[int]) -> Offer:
        """What came after the end of the history and the trail, tokens of a draft."""
        length, tokens = self._find((*self._last, *trail[-LONGEST:])[-LONGEST:])
        if not length:
            return NOTHING
        return tokens, [math.log(self.rates.rate(length, rank)) for rank in range(len(tokens))]

    def _find(self, last: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """The length of the longest known run at the end of `last`, 0 where there is none, and what came after it."""
        for start in range(len(last)):
            if (tokens := self._after.get(last[start:])) is not None:
                return len(last) - start, tokens
        return 0, ()

    def _add(self, token: int) -> None:
        for start in range(len(self._last)):
            run = self._last[start:]
            known = self._after.get(run, ())
            self._after[run] = (token, *(other for other in known if other != token))[:RANKS]
        self._last = (*self._last, token)[-LONGEST:]


class LookupDrafter(ForcedDrafter):
    """Drafts what a lookup finds, whatever `tree.lookup` says, without any guesses."""

    looks_up = True
