"""What the metric `exact` says of a text, as true or false."""

from ssft.bench.metrics import exact


def exact_match(text, references):
    """Whether a text is a reference, as the metric `exact` sees it."""
    return exact.score(text, references) == {"exact_match": 100}
