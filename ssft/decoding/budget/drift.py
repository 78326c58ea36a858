"""`Drift`: how far the passes that run are from the costs that were measured once.

The machine may have been busy while costs were measured, may be busy now, and a longer text costs more than a short
one. A pass that costs 1 + x plain ones by the table takes the time of

    y = a + b · x                                                                       f = b / a

plain ones of the table. That all passes take a times as long changes no choice. That what a draft adds is f times as
dear does. Both numbers are fitted to the latest passes by least squares; without passes of different x they are equal.
"""

MEMORY = 64
"""Passes after which an old one counts 1/e."""
PRIOR = 0.25
"""Weight of (a - b)²: that of four passes with x = 0.25."""
FIRST, LATE = 8, 1.5
"""After so many passes one that takes longer than LATE times what is expected counts as if it had taken that long."""
LEAST, MOST = 0.5, 4.0
"""Limits of f."""


class Drift:
    """The fit over the passes of batches of one size."""

    def __init__(self) -> None:
        self._kept = 1 - 1 / MEMORY
        self._passes = 0
        # Of 1, x, x², y and x·y over the passes.
        self._sums = [0.0] * 5
        self._a = self._b = 1.0

    @property
    def factor(self) -> float:
        """f: what a draft adds to a pass, over what it adds by the table; 1 before any pass."""
        return min(max(self._b / self._a, LEAST), MOST) if self._a > 0 else MOST

    def note(self, x: float, y: float) -> None:
        """A pass that costs 1 + x plain ones by the table, and took the time of y plain ones of the table."""
        if self._passes >= FIRST:
            y = min(y, LATE * (self._a + self._b * x))
        self._passes += 1
        new = (1.0, x, x * x, y, x * y)
        self._sums = [self._kept * old + added for old, added in zip(self._sums, new, strict=True)]
        ones, xs, squares, ys, products = self._sums
        ones, xs, squares = ones + PRIOR, xs - PRIOR, squares + PRIOR
        whole = ones * squares - xs * xs
        self._a = (ys * squares - products * xs) / whole
        self._b = (products * ones - ys * xs) / whole
