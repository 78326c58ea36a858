"""Three ways to multiply rows with the weights of some linear modules at once.

`Packed`: oneDNN's own layout of the weight on a CPU, reordered once instead of in every product. Up to some sixteen
rows then cost about what one does. `Dense`: the weights side by side in one matrix. `Separate`: every module by itself,
for those whose weights are not plain matrices (4 bits).
"""

import logging
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

TREE = 8
"""Rows of a product that oneDNN is told to lay weights out for: those of a small tree."""


class Packed:
    """One product with weights in oneDNN's layout; the dense ones are not needed any more."""

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        weight = torch.cat([module.weight.detach() for module in modules])
        self.nbytes = weight.nbytes
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, TREE)
        self.bias = _bias(modules)

    def __call__(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out of all modules]."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def dense(self) -> Tensor:
        """The weights of all modules, one below the other, [out, in]: the bits that were packed."""
        return self.packed.to_dense()


class Dense:
    """One product with the weights side by side in memory; each module's own weight is a part of the whole."""

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self.nbytes = 0  # what the modules' own parameters count already
        self.bias = _bias(modules)
        if len(modules) == 1:
            self.weight: Tensor = modules[0].weight.detach()
            return
        self.weight = torch.cat([module.weight.detach() for module in modules])
        for module, part in zip(modules, self.weight.split([m.out_features for m in modules]), strict=True):
            module.weight.data = part

    def __call__(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out of all modules]."""
        return F.linear(x, self.weight, self.bias)


class Separate:
    """Each module as it computes by itself."""

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self.nbytes = 0
        self.forwards = [module.forward for module in modules]

    def __call__(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out of all modules]."""
        if len(self.forwards) == 1:
            return self.forwards[0](x)
        return torch.cat([forward(x) for forward in self.forwards], dim=-1)


Product = Packed | Dense | Separate


def product_of(modules: Sequence[nn.Linear]) -> Product:
    """The fastest product of these modules' weights that this device has."""
    if any(type(module) is not nn.Linear for module in modules):
        return Separate(modules)
    weight = modules[0].weight
    same = all((m.weight.dtype, m.weight.device) == (weight.dtype, weight.device) for m in modules)
    if not same or weight.device.type == "meta":
        return Separate(modules)
    if weight.device.type == "cpu" and can_pack(weight.dtype):
        return Packed(modules)
    return Dense(modules)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of `dtype` on this CPU, found out by doing it.

    The operators are those that torch's own compiler emits for frozen weights; they are not public, so that another
    torch may lack them.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        layer = nn.Linear(64, 96, bias=True, dtype=dtype).requires_grad_(False)
        with torch.inference_mode():
            x = torch.randn(3, 64, dtype=dtype)
            packed = Packed([layer])
            if not torch.equal(packed.dense(), layer.weight):
                raise RuntimeError("the packed weight does not come back as it was")
            torch.testing.assert_close(packed(x), layer(x), rtol=2e-2, atol=2e-2)
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        # The operator is missing, refuses this CPU or computes something else: dense products do the same, and slower.
        name = str(dtype).removeprefix("torch.")
        reason = " ".join(str(error).split())[:200]
        logger.warning("%s weights cannot be packed for oneDNN here (%s); passes take longer", name, reason)
        return False
    return True


def _bias(modules: Sequence[nn.Linear]) -> Tensor | None:
    """The biases one behind the other, zeros for a module that has none; None if none has one."""
    if all(module.bias is None for module in modules):
        return None
    zeros = [m.weight.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in modules]
    return torch.cat(zeros)
