"""`FastTurn`: the linear layers of somebody else's model as fast products, while a pass runs and no longer."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ssft.base.kernels.linears import FastLinears

SAMPLE = 64
"""Elements of a weight by which a change is seen that torch does not count (`weight.data += delta`)."""


class FastTurn:
    """A turn in which `model` computes with copies of its weights that are laid out for decoding (`FastLinears`).

    What the model holds is never touched: outside of a pass it computes, trains, moves and saves as without this, and
    after an error too. The copies take as much memory again, until this object goes. `renew` makes them anew where
    weights have changed.
    """

    def __init__(self, turn: AbstractContextManager[Any], model: Any) -> None:
        self.turn = turn
        self.model = model
        # (module's own names, its forward with the copies), and what was copied.
        self._forwards: list[tuple[dict[str, Any], Any]] = []
        self._copied: list[tuple[Any, Tensor, int, Tensor]] = []

    def renew(self) -> None:
        """Copy the weights, unless the copies are those of the weights as they are."""
        with self.turn:
            if not (self._copied and all(_as_copied(*known) for known in self._copied)):
                self._copy()

    def _copy(self) -> None:
        self._forwards, self._copied = [], []
        linear = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)]
        own = [(module, module.weight, module.weight.data) for module in linear]
        try:
            groups = FastLinears(self.model).groups
            names = [vars(module) for group in groups for module in group.modules]
            self._forwards = [(name, name.pop("forward")) for name in names]
        finally:
            for module, weight, data in own:
                module.weight = weight
                weight.data = data
        modules = [module for group in groups for module in group.modules]
        self._copied = [(m, m.weight, m.weight._version, _sample(m.weight)) for m in modules]

    def __enter__(self) -> None:
        self.turn.__enter__()
        for names, forward in self._forwards:
            names["forward"] = forward

    def __exit__(self, *error: Any) -> None:
        for names, _ in self._forwards:
            names.pop("forward", None)
        self.turn.__exit__(*error)


def _sample(weight: Tensor) -> Tensor:
    """Some elements of a weight, spread over all of it."""
    flat = weight.detach().flatten()
    return flat[:: max(len(flat) // SAMPLE, 1)].clone()


def _as_copied(module: Any, weight: Tensor, version: int, sample: Tensor) -> bool:
    """Whether a module's weight is the one that was copied, and unchanged."""
    return module.weight is weight and weight._version == version and torch.equal(_sample(weight), sample)
