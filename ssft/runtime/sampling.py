"""How a call's tokens are chosen: the keywords of `MultiAdapterModel.generate` as a `Sampling` per row."""

from typing import Any

import torch

from ssft.decoding.sampling import Sampling, check_names
from ssft.runtime.inputs import per_row

_SHARED = ("bad_words_ids",)
"""Settings that are lists themselves, and one for all rows."""


def sampling_per_row(settings: dict[str, Any], count: int) -> list[Sampling]:
    """One `Sampling` for each of `count` rows; a setting is one value for all rows or a list of one per row.

    Raises:
        GenerationError: a keyword that is no setting, or a value that cannot be one.
    """
    check_names(settings)
    kinds = (bool, int, float, str, dict, type(None))
    rows = {
        name: [value] * count if name in _SHARED else per_row(name, value, count, kinds)
        for name, value in settings.items()
    }
    return [Sampling(**{name: values[i] for name, values in rows.items()}) for i in range(count)]


def seed_of(sampling: Sampling) -> int | None:
    """The seed of a row: its own, else one that torch's generator draws (`torch.manual_seed`); None where greedy."""
    if not sampling.sampled:
        return None
    return int(torch.randint(2**63 - 1, ())) if sampling.seed is None else sampling.seed
