"""Which modules of a model are linear, so that a low-rank sum can be added to what they give, and their sizes."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def is_linear(module: nn.Module) -> bool:
    """Whether a module gives one linear product: nn.Linear (bitsandbytes' are ones too), GPT-2's Conv1D.

    A model's own subclass of nn.Linear is tried on a row of zeros. Routers of experts (PhiMoE's) are such classes, and
    give a tuple, to which no product can be added.
    """
    if not isinstance(module, nn.Linear):
        return isinstance(module, Conv1D)
    kind: Any = type(module)
    if not kind.__module__.startswith("transformers.models."):
        return True
    with torch.no_grad():
        return isinstance(kind.forward(module, module.weight.new_zeros(1, module.in_features)), Tensor)


def linear_sizes(module: Any) -> tuple[int, int]:
    """(in, out) of a linear module: GPT-2's Conv1D holds its weight as [in, out], and the shape of a packed 4-bit one
    says nothing."""
    width, out = module.weight.shape if isinstance(module, Conv1D) else (module.in_features, module.out_features)
    return width, out
