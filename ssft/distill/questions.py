"""Which questions of a model's own are kept: long enough, no loop, and none that was asked before."""

import zlib
from collections import Counter, defaultdict

SHORTEST = 12
"""Characters of a question, at least."""
MOST_REPETITION = 2.4
"""How many times smaller zlib may make a question; text that loops shrinks more."""
GRAM = 5
"""Characters of the pieces that two questions are compared by: pieces of characters know no language."""
NEAR = 0.7
"""Jaccard index of two questions' pieces from which on they count as the same question."""


def fault_of(question: str) -> str:
    """Why a question cannot be used, "too short" or "repetitive"; empty if it can."""
    if len(question) < SHORTEST:
        return "too short"
    data = question.encode()
    return "repetitive" if len(data) / len(zlib.compress(data)) > MOST_REPETITION else ""


class Asked:
    """The questions that were kept, and whether another is nearly one of them."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holding: defaultdict[str, list[int]] = defaultdict(list)
        """Piece -> numbers of the questions that hold it."""

    def add(self, question: str) -> None:
        """Keep a question."""
        pieces = _pieces(question)
        for piece in pieces:
            self._holding[piece].append(len(self._sizes))
        self._sizes.append(len(pieces))

    def knows(self, question: str) -> bool:
        """Whether a kept question has a Jaccard index of `NEAR` or more with this one."""
        pieces = _pieces(question)
        shared = Counter(number for piece in pieces for number in self._holding.get(piece, ()))
        return any(count >= NEAR * (len(pieces) + self._sizes[number] - count) for number, count in shared.items())


def _pieces(text: str) -> set[str]:
    """Runs of `GRAM` characters, whatever their case and the spaces between words."""
    plain = " ".join(text.casefold().split())
    return {plain[i : i + GRAM] for i in range(max(len(plain) - GRAM + 1, 1))}
