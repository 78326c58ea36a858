"""`LoraRouter`: each row of a batch runs with its own LoRA, by hooks on the base's linear modules.

peft splits a mixed batch by adapter inside every module and hooks and unhooks all of them for each forward; its switch
walks every module of every adapter. Here the modules know no adapter at all: a context says which rows run with which
tensors, so that a switch is another context and costs the same however many adapters are loaded.

    rows 0 1 2 | 3 4 | 5        runs (0, 3, sql) (3, 5, mr), row 5 bare
    out[0:3] += s·(x[0:3] Aᵀ) Bᵀ with sql's A, B, s;  out[3:5] with mr's

Modules with one input (`FastLinears`) share a hook, and the A of an adapter's LoRA on them are one matrix. A LoRA of
the streams' own (lossless mode, paper §3.2.4) adds its product to the stream rows only: the main rows stay what the
base, or the adapter's other LoRA, makes of them.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ssft.base.kernels.linears import Hook, LinearGroup, group_hooks
from ssft.base.linear import is_linear
from ssft.lora.stacked import add_products
from ssft.streams.passes import current_pass


class LoraRouter:
    """Hooks on every linear module of one model; outside of a pass that has adapters each of them returns at once.

    The adapters of a pass (`Pass.adapters`) are `LoraWeights`. Products are added in place, so this is for inference.
    """

    def __init__(self, model: nn.Module, groups: Sequence[LinearGroup] = ()) -> None:
        """`groups`: modules of `model` that compute together; all others get a hook each."""
        self._handles: list[Any] = []
        self._groups: list[tuple[LinearGroup, Hook]] = []
        for group in groups:
            hook = _low_rank_hook(tuple(map(_base_name, group.names)), group.bounds, self)
            group.hooks.append(hook)
            self._groups.append((group, hook))
        grouped = {name for group in groups for name in group.names}
        for name, module in model.named_modules():
            if is_linear(module) and name not in grouped:
                self._handles.append(module.register_forward_hook(_module_hook(_base_name(name), self)))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        for group, hook in self._groups:
            group.hooks.remove(hook)
        self._handles.clear()
        self._groups.clear()


def router_on(model: nn.Module) -> LoraRouter | None:
    """The router whose hooks are on `model` already; those of a second one would add every product twice."""
    hooks = (hook for module in model.modules() for hook in (*module._forward_hooks.values(), *group_hooks(module)))
    owners = (getattr(hook, "router", None) for hook in hooks)
    return next((owner for owner in owners if isinstance(owner, LoraRouter)), None)


def _base_name(name: str) -> str:
    """Where peft has wrapped a module, it is known by the wrapper's name."""
    return name.removesuffix(".base_layer")


def _module_hook(name: str, router: LoraRouter) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        add(args[0], output)

    add = _low_rank_hook((name,), None, router)
    setattr(hook, "router", router)  # noqa: B010 (a function has no such attribute for mypy)
    return hook


def _low_rank_hook(names: tuple[str, ...], bounds: Sequence[tuple[int, int]] | None, router: LoraRouter) -> Hook:
    """Adds the low-rank products of these modules to their common output; `bounds` None: one module has all of it."""

    def hook(x: Tensor, output: Tensor) -> None:
        now = current_pass()
        if now is None or not now.runs:
            return
        # [B, R, in] or, in OPT's feed-forward, [B·R, in].
        batch = len(now.adapters)
        x = x.reshape(batch, -1, x.shape[-1])
        out = output.view(batch, -1, output.shape[-1])
        columns = bounds or [(0, out.shape[-1])]
        main = 0 if now.plan is None else now.plan.num_main  # stream rows stand behind the main rows
        streams = 0 < main < x.shape[1]
        for rows, weights in now.runs:
            text = weights.stacked(names, columns)
            own = weights.stacked(names, columns, streams=True) if streams else None
            if text is not None or own is not None:
                add_products(x[rows], out[rows], text, own, main)

    setattr(hook, "router", router)  # noqa: B010
    return hook
