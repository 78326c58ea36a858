"""The logits of a few token ids: rows of a model's head as a product of their own, for a part of the head's cost."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


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


class HeadColumns:
    """The same logits out of all that a head computes, at the whole head's cost: for one that `gives_rows` refuses."""

    nbytes = 0

    def __init__(self, head: Callable[[Tensor], Tensor], ids: Tensor) -> None:
        """`head`: finished states [.., h] -> logits [.., V]; ids [v]."""
        self.head = head
        self.ids = ids

    def __call__(self, hidden: Tensor) -> Tensor:
        """Finished states [.., h] -> logits [.., v]."""
        logits = self.head(hidden)
        return logits[..., self.ids.to(logits.device)]


def gives_rows(head: Any) -> bool:
    """Whether rows can be taken out of `head`: a linear layer of floating-point numbers that lie here, all of them.

    4-bit weights are packed, offloaded ones and those spread over processes lie elsewhere, and a head inside a LoRA is
    more than its weight.
    """
    if not isinstance(head, nn.Linear):
        return False
    weight = head.weight
    whole = type(weight) in (Tensor, nn.Parameter) and weight.shape == (head.out_features, head.in_features)
    return whole and weight.is_floating_point() and not weight.is_meta


def head_rows(head: Any, ids: Tensor, added: Tensor | None = None) -> HeadRows:
    """The rows of `head`, one that `gives_rows` takes, for the token ids `ids` [v]; a gradient flows back into it.

    `added` [v, h] is what a LoRA of the head adds to them.
    """
    ids = ids.to(head.weight.device)
    weight = head.weight[ids]
    if added is not None:
        weight = (weight.float() + added.to(weight.device).float()).to(weight.dtype)
    return HeadRows(weight, None if head.bias is None else head.bias[ids])


def head_over(head: Any, ids: Tensor) -> HeadRows | HeadColumns:
    """The logits of the token ids `ids` [v], as cheap as `head` allows."""
    return head_rows(head, ids) if gives_rows(head) else HeadColumns(head, ids)
