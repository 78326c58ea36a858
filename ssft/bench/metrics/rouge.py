"""ROUGE, by the package rouge-score: how many words, pairs and sequences of words a text shares with a reference."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

NAME = "rouge"
DESCRIPTION = "ROUGE-1, 2, L and Lsum F-measures, of the best reference"
NEEDS = "texts"

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# The ends of sentences, with quotes and brackets that close there.
_SENTENCE_END = re.compile(r"([.!?][\"'”’)\]]*)\s+")


def fits(references: Sequence[Sequence[str]]) -> bool:
    """Any text."""
    return True


def score(text: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2, -L and -Lsum: the F-measure, with the Porter stemmer.

    Of several references each type takes the one that scores best, as the package's `score_multi` does. It reads
    a-z and 0-9 alone, so texts in other scripts score 0. ROUGE-Lsum compares sentences (`split_sentences`).
    """
    scores = _scorer().score_multi([split_sentences(reference) for reference in references], split_sentences(text))
    return {name: 100 * float(scores[name].fmeasure) for name in TYPES}


def split_sentences(text: str) -> str:
    """A text with a line per sentence, as ROUGE-Lsum wants it.

    A sentence ends at `.`, `!` or `?` before white space; lines that are there stay. The field mostly takes NLTK's
    punkt, a model to download, which does not end one after an abbreviation (`Dr. Lee`); ROUGE-Lsum hardly sees that.
    """
    return _SENTENCE_END.sub(r"\1\n", text.strip())


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(TYPES), use_stemmer=True)
