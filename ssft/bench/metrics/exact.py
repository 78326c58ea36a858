"""Exact match: the text is a reference, white space at both ends aside."""

from collections.abc import Sequence

NAME = "exact"
DESCRIPTION = "the text equals a reference"
NEEDS = "texts"

LABEL_WORDS = 3
"""Longest reference, in words, that counts as a label."""


def fits(references: Sequence[Sequence[str]]) -> bool:
    """Whether all references are labels, one each: people summarise one talk in different words, but hardly write
    different labels."""
    return all(len(row) == 1 and len(row[0].split()) <= LABEL_WORDS for row in references)


def score(text: str, references: Sequence[str]) -> dict[str, float]:
    """exact_match."""
    return {"exact_match": 100.0 * (text.strip() in {reference.strip() for reference in references})}
