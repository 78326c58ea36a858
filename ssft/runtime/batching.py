"""Which prompts are decoded together."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of rows of `lengths` tokens in batches, sorted by length so that little is padded; ties keep their order.

    Every index occurs once; the last batch may be smaller.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def run_in_batches(
    lengths: Sequence[int], batch_size: int, run: Callable[[list[int]], Sequence[T]], progress: bool = False
) -> list[T]:
    """What `run` gives for the rows of each batch of `length_batches`, in the order of `lengths`.

    `progress` shows a bar on stderr once that takes more than two seconds.
    """
    results: dict[int, T] = {}
    with tqdm(total=len(lengths), unit="prompt", delay=2, disable=None if progress else True, leave=False) as bar:
        for batch in length_batches(lengths, batch_size):
            results.update(zip(batch, run(batch), strict=True))
            bar.update(len(batch))
    return [results[row] for row in range(len(lengths))]
