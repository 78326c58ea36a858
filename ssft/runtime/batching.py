"""Which prompts are decoded together."""

from collections.abc import Sequence


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of rows of `lengths` tokens in batches, sorted by length so that little is padded; ties keep their order.

    Every index occurs once; the last batch may be smaller.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
