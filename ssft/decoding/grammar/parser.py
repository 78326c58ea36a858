"""`Parser`: where a row's text stands in its grammar, and what may come after a path of its draft tree."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ssft.decoding.grammar.engine import Grammar

GRAMMAR = "grammar"
"""The part of a pass that is timed here."""


class Parser:
    """One text on its way through a grammar.

    It stands at the end of the text, or behind it at the end of a trail: tokens of a draft that may be wrong. From one
    trail to another it goes back to where they part, and on from there.
    """

    def __init__(self, grammar: Grammar, timer: Callable[[str], AbstractContextManager[None]] | None = None) -> None:
        """`timer` measures what is done here, as `Step.timer` does."""
        self.grammar = grammar
        self.timed = timer or (lambda _part: nullcontext())
        self._matcher = grammar.start()
        self._trail: list[int] = []

    def advance(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text."""
        with self.timed(GRAMMAR):
            self._go(tokens)
            self._trail = []

    def mask(self, trail: Sequence[int]) -> np.ndarray:
        """uint8 [..]: a bit for each token id, the lowest first, set where the token may come after the trail."""
        with self.timed(GRAMMAR):
            self._go(trail)
            mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            self._check()
            return mask

    def forced(self, trail: Sequence[int]) -> list[int]:
        """The tokens after the trail that alone may come, one after the other; none where there is a choice."""
        with self.timed(GRAMMAR):
            self._go(trail)
            return list(self._matcher.compute_ff_tokens())

    def permitted(self, trail: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """Whether each of these tokens may come after the trail."""
        with self.timed(GRAMMAR):
            self._go(trail)
            return [self._matcher.validate_tokens([token]) == 1 for token in tokens]

    def _go(self, trail: Sequence[int]) -> None:
        common = 0
        while common < min(len(trail), len(self._trail)) and trail[common] == self._trail[common]:
            common += 1
        if back := len(self._trail) - common:
            self._matcher.rollback(back)
        self._matcher.consume_tokens(list(trail[common:]))
        self._trail = list(trail)
        self._check()

    def _check(self) -> None:
        """Raises `GenerationError` where the engine gave up: the grammar is beyond its limits."""
        if self._matcher.is_error():
            raise self.grammar.fail(self._matcher.get_error())
