"""Some rows of a model's head as a product of their own: logits of a few token ids for a part of the head's cost."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class HeadRows:
    """The rows of a head for v token ids, copied from it: finished states [.., h] -> logits [.., v]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight [v, h] is contiguous, bias [v]."""
        self.weight = weight
        self.bias = bias

    def __call__(self, hidden: Tensor) -> Tensor:
        """The states may be on another device than the head."""
        return F.linear(hidden.to(self.weight.device), self.weight, self.bias)

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


@torch.no_grad()
def head_rows(head: Any, ids: Tensor, added: Tensor | None = None) -> HeadRows:
    """The rows of `head`, an `nn.Linear` whose weights are floating-point numbers, for the token ids `ids` [v].

    `added` [v, h] is what a LoRA of the head adds to them.
    """
    ids = ids.to(head.weight.device)
    weight = head.weight[ids]
    if added is not None:
        weight = (weight.float() + added.to(weight.device).float()).to(weight.dtype)
    return HeadRows(weight, None if head.bias is None else head.bias[ids])
