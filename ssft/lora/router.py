"""`LoraRouter`: each row of a batch runs with its own LoRA, by hooks on the base's linear modules.

peft splits a mixed batch by adapter inside every module and hooks and unhooks all of them for each forward; its switch
walks every module of every adapter. Here the modules know no adapter at all: a context says which rows run with which
tensors, so that a switch is another context and costs the same however many adapters are loaded.

    rows 0 1 2 | 3 4 | 5        runs (0, 3, sql) (3, 5, mr), row 5 bare
    out[0:3] += s·(x[0:3] Aᵀ) Bᵀ with sql's A, B, s;  out[3:5] with mr's

A LoRA of the streams' own (lossless mode, paper §3.2.4) adds its product to the stream rows only: the main rows stay
what the base, or the adapter's other LoRA, makes of them.
"""

from typing import Any

from torch import Tensor, nn

from ssft.bundle.fit import is_linear
from ssft.streams.passes import current_pass


class LoraRouter:
    """Hooks on every linear module of one model; outside of a pass that has adapters each of them returns at once.

    The adapters of a pass (`Pass.adapters`) are `LoraWeights`. Products are added in place, so this is for inference.
    """

    def __init__(self, model: nn.Module) -> None:
        self._handles: list[Any] = [
            # Where peft has wrapped a module, it is known by the wrapper's name.
            module.register_forward_hook(_low_rank_hook(name.removesuffix(".base_layer"), self))
            for name, module in model.named_modules()
            if is_linear(module)
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def router_on(model: nn.Module) -> LoraRouter | None:
    """The router whose hooks are on `model` already; those of a second one would add every product twice."""
    hooks = (hook for module in model.modules() for hook in module._forward_hooks.values())
    owners = (getattr(hook, "router", None) for hook in hooks)
    return next((owner for owner in owners if isinstance(owner, LoraRouter)), None)


def _low_rank_hook(name: str, router: LoraRouter) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        now = current_pass()
        if now is None or not now.runs:
            return
        # [B, R, in] or, in OPT's feed-forward, [B·R, in].
        batch = len(now.adapters)
        x = args[0].reshape(batch, -1, args[0].shape[-1])
        out = output.view(batch, -1, output.shape[-1])
        for rows, weights in now.runs:
            if (layer := weights.layers.get(name)) is not None:
                layer.add(x[rows], out[rows])
            layer = weights.stream_layers.get(name)
            main = 0 if now.plan is None else now.plan.num_main
            if layer is not None and main and x.shape[1] > main:  # stream rows stand behind the main rows
                layer.add(x[rows, main:], out[rows, main:])

    setattr(hook, "router", router)  # noqa: B010 (a function has no such attribute for mypy)
    return hook
