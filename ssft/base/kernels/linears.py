"""`FastLinears`: the linear modules of a model as few large products, put on and taken off without touching its code.

Modules that are given one input (q, k and v; gate and up) are a group. The module that is called first computes the
product of all of them, the others hand out their part of it. Which modules belong together is observed in one pass of
one token, so that no architecture is spelled out here.

    model calls q(x), k(x), v(x)        group (q, k, v): out = x [Wq; Wk; Wv]ᵀ, once
                                        q gets out[.., :576], k out[.., 576:768], v out[.., 768:]
"""

from collections import Counter
from collections.abc import Callable
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ssft.base.kernels.products import Packed, product_of
from ssft.base.linear import is_linear, linear_sizes

Hook = Callable[[Tensor, Tensor], None]
"""Gets a group's input x [.., in] and output [.., out of all members], which it may change in place."""


class LinearGroup:
    """Linear modules with one input. names: the modules', in the order of their calls; bounds: where the columns of
    each begin and end in the common output; hooks: called after every product."""

    def __init__(self, names: tuple[str, ...], modules: list[Any]) -> None:
        self.names = names
        self.modules = modules
        self.bounds = list(pairwise(accumulate((module.out_features for module in modules), initial=0)))
        self.device = modules[0].weight.device
        self.product = product_of(modules)
        self.hooks: list[Hook] = []
        # The last input and what came of it. Another thread's takes its place; then the product is computed again.
        self._held: tuple[Tensor, Tensor] | None = None

    def part(self, member: int, x: Tensor) -> Tensor:
        """The output [.., out] of one member for x [.., in]."""
        held = self._held
        if held is None or held[0] is not x:
            out = self.product(x)
            for hook in self.hooks:
                hook(x, out)
            held = self._held = (x, out)
        begin, end = self.bounds[member]
        if member == len(self.bounds) - 1:
            self._held = None
        return held[1] if len(self.bounds) == 1 else held[1][..., begin:end]


class _Member:
    """What a module's `forward` is while its group is on."""

    def __init__(self, group: LinearGroup, member: int) -> None:
        self.group, self.member = group, member

    def __call__(self, x: Tensor) -> Tensor:
        return self.group.part(self.member, x)

    def __deepcopy__(self, memo: Any) -> "_Member":
        return self  # a copy of the model computes with the same weights


class FastLinears:
    """The groups of one model; from its making to `remove` the model computes with them.

    Where weights are packed, the modules' own are let go (`weight` is then on the device "meta"), except those that
    another module has too and those of the head, of which a draft vocabulary takes rows. So this is for a model that is
    one's own, and that nobody trains, moves or saves meanwhile.
    """

    def __init__(self, model: Any, on: bool = True) -> None:
        """`model`: a causal LM of transformers, which stays as it is unless this is `on`."""
        self.model = model
        self.groups: list[LinearGroup] = []
        if not on:
            return
        owners = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
        owners[id(model.get_output_embeddings().weight)] += 1
        self.groups = [LinearGroup(names, [model.get_submodule(name) for name in names]) for names in siblings(model)]
        for group in self.groups:
            for member, module in enumerate(group.modules):
                module.forward = _Member(group, member)
                if isinstance(group.product, Packed) and owners[id(module.weight)] == 1:
                    module.weight = _parameter(torch.empty_like(module.weight, device="meta"))

    def remove(self) -> None:
        """Give the model its own weights and products back."""
        self.restore(self.model)
        self.groups = []

    def restore(self, model: nn.Module) -> None:
        """Give `model`, this one or a copy of it, dense weights and the modules' own `forward`."""
        for group in self.groups:
            dense: Tensor | None = None
            for name, (begin, end) in zip(group.names, group.bounds, strict=True):
                module: Any = model.get_submodule(name)
                vars(module).pop("forward", None)
                if module.weight.device.type == "meta" and isinstance(group.product, Packed):
                    dense = group.product.dense() if dense is None else dense
                    module.weight = _parameter(dense[begin:end].clone())


def siblings(model: Any) -> list[tuple[str, ...]]:
    """The names of the linear modules that one pass calls, those together that are given the very same tensor.

    A module that is called twice, or for which accelerate has put a hook in the place of `forward`, is left out.
    """
    calls: list[tuple[str, Tensor]] = []

    def note(name: str) -> Any:
        return lambda _module, args: calls.append((name, args[0]))

    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "forward" not in vars(module) and is_linear(module) and not _is_lora(name)
    }
    handles = [module.register_forward_pre_hook(note(name)) for name, module in linear.items()]
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(name for name, _ in calls)
    # The tensors are kept until here, so that no two of them have one identity.
    once = [(name, id(x)) for name, x in calls if times[name] == 1]
    return [tuple(name for name, _ in together) for _, together in groupby(once, key=lambda call: call[1])]


def kernel_bytes(model: nn.Module) -> int:
    """Bytes of packed weights under `model`, which are in none of its parameters."""
    members = (vars(module).get("forward") for module in model.modules())
    products = {id(m.group): m.group.product.nbytes for m in members if isinstance(m, _Member)}
    return sum(products.values())


def kernel_names(model: nn.Module) -> list[str]:
    """What the linear modules of a model compute with: kinds of products, or the modules' own classes."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    members = [vars(module).get("forward") for module in linear]
    return sorted(
        {
            type(member.group.product if isinstance(member, _Member) else module).__name__
            for module, member in zip(linear, members, strict=True)
        }
    )


def packed_device(module: nn.Module) -> torch.device | None:
    """Where a module computes that is in a group; None for any other."""
    member = vars(module).get("forward")
    return member.group.device if isinstance(member, _Member) else None


def columns_of(module: Any) -> tuple[object, int, int]:
    """What computes a module's output: its group, or itself; the first of its columns there, and how many there are."""
    member = vars(module).get("forward")
    if not isinstance(member, _Member):
        return module, 0, linear_sizes(module)[1]
    bounds = member.group.bounds
    return member.group, bounds[member.member][0], bounds[-1][1]


def group_hooks(module: nn.Module) -> list[Hook]:
    """The hooks on the group that a module is in; none for any other."""
    member = vars(module).get("forward")
    return member.group.hooks if isinstance(member, _Member) else []


def _is_lora(name: str) -> bool:
    """Whether a module is part of a LoRA that peft has put around another one."""
    return any(part.startswith("lora_") for part in name.split("."))


def _parameter(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
