"""`Calibration`: how far the drafter's probabilities can be trusted, by what came of its guesses so far.

At depth d the drafter offers k tokens with the probabilities p_1 … p_k; their sum q is its own chance to be right
there, given that it was right above. Of all depths d that were judged (the guesses above had come true), q is added to
`predicted`, and 1 to `accepted` if one of the k tokens came. Then

    r_d = (accepted_d + PRIOR · r_d of the parent) / (predicted_d + PRIOR)            calibrated p = p · min(r_d, 1 / q)

so that a row that is new is judged by what its adapter did for other rows, and an adapter that is new by its own word.
"""

import math
from typing import Optional

DEPTHS = 4
"""Buckets: depths 1, 2, 3, and 4 with all beyond."""
PRIOR = 2.0
"""Judged guesses that the parent's ratio weighs."""


class Calibration:
    """Ratios of one row, with those of its adapter as `parent`, or of one adapter."""

    def __init__(self, memory: int, parent: Optional["Calibration"] = None) -> None:
        """`memory`: judged guesses after which an old one counts 1/e."""
        self.parent = parent
        self._kept = 1 - 1 / memory
        self._accepted = [0.0] * DEPTHS
        self._predicted = [0.0] * DEPTHS

    def ratio(self, depth: int) -> float:
        """r_d, above 0."""
        bucket = min(depth, DEPTHS) - 1
        before = 1.0 if self.parent is None else self.parent.ratio(depth)
        return (self._accepted[bucket] + PRIOR * before) / (self._predicted[bucket] + PRIOR)

    def observe(self, depth: int, predicted: float, accepted: bool) -> None:
        """One of the tokens offered at `depth`, of the probability `predicted` together, came; or none did."""
        bucket = min(depth, DEPTHS) - 1
        self._accepted[bucket] = self._kept * self._accepted[bucket] + accepted
        self._predicted[bucket] = self._kept * self._predicted[bucket] + predicted
        if self.parent is not None:
            self.parent.observe(depth, predicted, accepted)

    def calibrated(self, scores: list[list[float]]) -> list[list[float]]:
        """Log-probabilities [g][k], calibrated; those of one depth never exceed 1 together."""
        found = []
        for depth, offered in enumerate(scores, start=1):
            together = sum(map(math.exp, offered))
            shift = math.log(min(self.ratio(depth), 1 / max(together, 1e-9)))
            found.append([score + shift for score in offered])
        return found
