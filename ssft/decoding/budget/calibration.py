"""`Calibration`: how far a drafter's probabilities can be trusted, by what came of its guesses so far.

At depth d the drafter offers k tokens with probabilities, the best one and the others. Of all depths d that were judged
(the guesses above had come true), what it said of the best token is added to `predicted`, and 1 to `accepted` if that
one came; likewise for the others together, in a bucket of their own. With q the mean of what was predicted, a bucket's
ratio is

    r = (accepted + PRIOR · q · r of the parent) / (predicted + PRIOR · q)                  calibrated p = p · r

so that a new row is judged by what its adapter did for other rows, and a new adapter by its own word.
"""

import math
from typing import Optional

from ssft.decoding.draft.drafter import Guesses

DEPTHS = 4
"""Buckets of either kind: depths 1, 2, 3, and 4 with all beyond."""
PRIOR = 3.0
"""Judged guesses that the parent's ratio weighs."""


class Calibration:
    """Ratios of one row, with those of its adapter as `parent`, or of one adapter."""

    def __init__(self, memory: int, parent: Optional["Calibration"] = None) -> None:
        """`memory`: judged guesses after which an old one counts 1/e."""
        self.parent = parent
        self._kept = 1 - 1 / memory
        # [kind][depth] of what was predicted, accepted, and how often.
        self._sums = [[[0.0, 0.0, 0.0] for _ in range(DEPTHS)] for _ in range(2)]

    def ratio(self, depth: int, best: bool) -> float:
        """r of the best token at `depth`, or of the others; above 0."""
        predicted, accepted, times = self._sums[best][min(depth, DEPTHS) - 1]
        before = 1.0 if self.parent is None else self.parent.ratio(depth, best)
        if not predicted:
            return before
        prior = PRIOR * predicted / times
        return (accepted + prior * before) / (predicted + prior)

    def judge(self, depth: int, tokens: list[int], scores: list[float], came: int) -> bool:
        """Learn what came at `depth`, where tokens [k] were offered with log-probabilities; whether it was offered."""
        chances = [math.exp(score) for score in scores]
        for best, predicted, offered in ((True, chances[0], tokens[:1]), (False, sum(chances[1:]), tokens[1:])):
            if offered:
                self._observe(depth, best, predicted, came in offered)
        return came in tokens

    def _observe(self, depth: int, best: bool, predicted: float, accepted: bool) -> None:
        sums = self._sums[best][min(depth, DEPTHS) - 1]
        sums[:] = (self._kept * old + new for old, new in zip(sums, (predicted, accepted, 1.0), strict=True))
        if self.parent is not None:
            self.parent._observe(depth, best, predicted, accepted)

    def calibrated(self, guesses: Guesses) -> Guesses:
        """Guesses with calibrated log-probabilities, best first; those of one depth never exceed 1 together."""
        tokens, scores = [], []
        for depth, (offered, said) in enumerate(zip(guesses.tokens, guesses.scores, strict=True), start=1):
            first, rest = self.ratio(depth, True), self.ratio(depth, False)
            chances = [math.exp(score) * (rest if rank else first) for rank, score in enumerate(said)]
            # A chance of 0 has no logarithm.
            whole = max(1.0, sum(chances))
            order = sorted(range(len(chances)), key=lambda rank: -chances[rank])
            tokens.append([offered[rank] for rank in order])
            scores.append([math.log(max(chances[rank] / whole, 1e-9)) for rank in order])
        return Guesses(tokens, scores)
