"""`LoraRouter`: each row of a batch runs with its own LoRA, by hooks on the base's linear modules.

peft splits a mixed batch by adapter inside every module and hooks and unhooks all of them for each forward; its switch
walks every module of every adapter. Here the modules know no adapter at all: a context says which rows run with which
tensors, so that a switch is another context and costs the same however many adapters are loaded.

    rows 0 1 2 | 3 4 | 5        runs (0, 3, sql) (3, 5, mr), row 5 bare
    out[0:3] += s·(x[0:3] Aᵀ) Bᵀ with sql's A, B, s;  out[3:5] with mr's

A LoRA of the streams' own (lossless mode, paper §3.2.4) adds its product to the stream rows only: the main rows stay
what the base, or the adapter's other LoRA, makes of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ssft.lora.weights import LoraLayer, LoraWeights, is_linear
from ssft.streams.insertion import current_plan


@dataclass(frozen=True)
class _Route:
    """A batch of B rows as runs (begin, end, adapter) of rows that stand side by side; rows in none are bare."""

    batch: int
    runs: tuple[tuple[int, int, LoraWeights], ...]


# One value per thread and task, as the stream plan: threads do not see each other's.
_ROUTE: ContextVar[_Route | None] = ContextVar("ssft_lora_route", default=None)


class LoraRouter:
    """Hooks on every linear module of one model; outside `use` each of them returns at once."""

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

    @contextmanager
    def use(self, adapters: Sequence[LoraWeights | None]) -> Iterator[None]:
        """Row b of every forward inside runs with `adapters[b]`; inference only (products are added in place)."""
        token = _ROUTE.set(_route(adapters))
        try:
            yield
        finally:
            _ROUTE.reset(token)


def router_on(model: nn.Module) -> LoraRouter | None:
    """The router whose hooks are on `model` already; those of a second one would add every product twice."""
    hooks = (hook for module in model.modules() for hook in module._forward_hooks.values())
    owners = (getattr(hook, "router", None) for hook in hooks)
    return next((owner for owner in owners if isinstance(owner, LoraRouter)), None)


def _route(adapters: Sequence[LoraWeights | None]) -> _Route | None:
    """Runs of equal adapters; None where all rows are bare."""
    runs = []
    begin = 0
    for end in range(1, len(adapters) + 1):
        if end < len(adapters) and adapters[end] is adapters[begin]:
            continue
        if (weights := adapters[begin]) is not None:
            runs.append((begin, end, weights))
        begin = end
    return _Route(len(adapters), tuple(runs)) if runs else None


def _low_rank_hook(name: str, router: LoraRouter) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        route = _ROUTE.get()
        if route is None:
            return
        # [B, R, in] or, in OPT's feed-forward, [B·R, in].
        x = args[0].reshape(-1, args[0].shape[-1])
        out = output.view(-1, output.shape[-1])
        rows = x.shape[0] // route.batch
        for begin, end, weights in route.runs:
            if (layer := weights.layers.get(name)) is not None:
                _add(layer, x[begin * rows : end * rows], out[begin * rows : end * rows])
            if (layer := weights.stream_layers.get(name)) is not None:
                _add_to_streams(layer, x, out, rows, begin, end)

    setattr(hook, "router", router)  # noqa: B010 (a function has no such attribute for mypy)
    return hook


def _add(layer: LoraLayer, x: Tensor, out: Tensor) -> None:
    """out [M, out] += scaling · (x [M, in] Aᵀ) Bᵀ."""
    down, up = _factors(layer, x)
    out.addmm_(x.mm(down.T), up.T, alpha=layer.scaling)


def _add_to_streams(layer: LoraLayer, x: Tensor, out: Tensor, rows: int, begin: int, end: int) -> None:
    """The same for the stream rows alone: they stand behind the main rows of each sequence, where there are any."""
    plan = current_plan()
    main = 0 if plan is None else plan.num_main
    if not main or rows <= main:
        return
    down, up = _factors(layer, x)
    streams = x.unflatten(0, (-1, rows))[begin:end, main:]
    out.unflatten(0, (-1, rows))[begin:end, main:] += (streams @ down.T @ up.T) * layer.scaling


def _factors(layer: LoraLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """A and B in the type of x; they are kept as narrow as the file has them."""
    return layer.down.to(x.dtype), layer.up.to(x.dtype)
