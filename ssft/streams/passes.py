"""`Pass`: one forward of the model, announced to all hooks that take part in it.

Streams (`insertion.py`) and LoRA products (`ssft/lora/router.py`) enter a model through hooks, which are called with
tensors alone. What else they must know of the forward that they are in stands in one object, which the thread that
runs the forward announces.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from ssft.streams.mixed import runs_of
from ssft.streams.plan import StreamPlan


@dataclass
class Pass:
    """One forward over R main rows of each of B sequences.

    plan: the streams that it carries; None: none. adapters: [B] whose LoRA each sequence runs with, as the router knows
    it (None: nobody's); empty: no router takes part. ids, positions [B, R] and masks (by a layer's window:
    [B, 1, R, K], additive, over the cache's K slots; none: causal) are what a decoding pass gives to the model; a
    training step leaves them to TRL. repeated: filled by the pass, see `attention.py`.
    """

    plan: StreamPlan | None = None
    adapters: Sequence[Any] = ()
    ids: Tensor | None = None
    positions: Tensor | None = None
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    repeated: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @cached_property
    def runs(self) -> list[tuple[slice, Any]]:
        """Neighbouring sequences with one adapter as a slice; bare ones are in none."""
        return runs_of(self.adapters)


# One value per thread and task: two threads that decode at the same time do not see each other's.
_PASS: ContextVar[Pass | None] = ContextVar("ssft_pass", default=None)


def current_pass() -> Pass | None:
    """The pass that this thread is in, if it announced one."""
    return _PASS.get()


@contextmanager
def announced(a_pass: Pass) -> Iterator[Pass]:
    """Every forward of a hooked model inside belongs to `a_pass`; a plan may be run once."""
    token = _PASS.set(a_pass)
    try:
        yield a_pass
    finally:
        _PASS.reset(token)
