"""Shapes of a pass in which a row gets the same bits whatever stands beside it.

A product of few rows, or attention over few keys, adds its terms in another order when it has another shape. In
float32 that moves no token. In bfloat16 it moves some, unless passes keep to shapes in which torch's kernels for CPUs
keep to one order (measured: docs/log.md, "Bit for bit in bfloat16"): rows come in fours, and keys in blocks of 512,
which is how the attention kernel itself cuts them. Fewer keys than a block come in those numbers in which the kernel of
this machine is found to add as it does over a whole block.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

ROWS = 4
KEYS = 512
SHORT = (64, 128, 192, 384, 448)
"""Numbers of keys below a block that are tried."""


def whole(count: int, multiple: int) -> int:
    """The next multiple, up from `count`."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Shapes:
    """rows, keys: what those of a pass are multiples of; short: numbers of keys below one block that do as well."""

    rows: int = 1
    keys: int = 1
    short: tuple[int, ...] = ()

    @classmethod
    def of(cls, dtype: torch.dtype, device: torch.device, width: int) -> "Shapes":
        """Those for a model that computes in `dtype` on `device` and whose keys are `width` wide."""
        exact = device.type == "cpu" and dtype == torch.bfloat16
        return cls(ROWS, KEYS, short_spans(width)) if exact else cls()

    def span(self, keys: int) -> int:
        """Keys that a pass attends to which has `keys` of them."""
        return next((span for span in self.short if span >= keys), whole(keys, self.keys))

    @property
    def exact(self) -> bool:
        """Whether they make a row's bits its own."""
        return self.rows > 1


@cache
def short_spans(width: int) -> tuple[int, ...]:
    """Those of `SHORT` over which bfloat16 attention on this CPU gives the bits that it gives over a whole block.

    Found by trying: rows as few as a plain pass has and as many as a prompt, keys in use up to the last.
    """
    generator = torch.Generator().manual_seed(0)
    kept = []
    with torch.inference_mode():
        query, key, value = (torch.randn(1, 3, n, width, generator=generator).bfloat16() for n in (200, KEYS, KEYS))

        def attend(rows: int, used: int, keys: int) -> torch.Tensor:
            mask = torch.zeros(1, 1, rows, keys, dtype=query.dtype)
            mask[..., used:] = torch.finfo(query.dtype).min
            return F.scaled_dot_product_attention(query[:, :, :rows], key[:, :, :keys], value[:, :, :keys], mask)

        for span in SHORT:
            tries = [(rows, used) for rows in (ROWS, 3 * ROWS, 24, 200) for used in (span * 3 // 4, span - 1)]
            if all(torch.equal(attend(*tried, span), attend(*tried, KEYS)) for tried in tries):
                kept.append(span)
    return tuple(kept)
