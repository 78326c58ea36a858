"""Shapes of a pass in which a row gets the same bits whatever stands beside it.

A product of few rows, or attention over few keys, adds its terms in another order when it has another shape. In
float32 that moves no token. In bfloat16 it moves some, unless passes keep to shapes in which torch's kernels for CPUs
keep to one order (measured: docs/log.md, "Bit for bit in bfloat16"): rows come in fours, and keys in blocks of 512,
which is how the attention kernel itself cuts them.
"""

from dataclasses import dataclass

import torch

ROWS = 4
KEYS = 512


def whole(count: int, multiple: int) -> int:
    """The next multiple, up from `count`."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Shapes:
    """What the rows and the keys of a pass are multiples of."""

    rows: int = 1
    keys: int = 1

    @classmethod
    def of(cls, dtype: torch.dtype, device: torch.device) -> "Shapes":
        """Those for a model that computes in `dtype` on `device`."""
        return cls(ROWS, KEYS) if device.type == "cpu" and dtype == torch.bfloat16 else cls()

    @property
    def exact(self) -> bool:
        """Whether they make a row's bits its own."""
        return self.rows > 1
