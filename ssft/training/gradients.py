"""How the gradients of text and streams meet in the LoRA that both share (mode shared).

The weights in the loss are not the shares of the gradient: late in training the main stream's loss is small, and
streams with a small weight still pull harder than the text. Here each loss has a gradient of its own, and what the
streams may do to every tensor of the LoRA is decided by the text's gradient there.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

StreamGradient = Literal["summed", "scaled", "projected"]
"""How the gradient of the streams' loss joins that of the main stream's in a tensor of the LoRA: as it is; made no
longer than the main stream's; or without the part that points against the main stream's."""


def scaled(main: Tensor, streams: Tensor) -> Tensor:
    """`streams` shortened to the length of `main` where it is longer; of any equal shapes."""
    return streams * (main.norm() / streams.norm().clamp(min=torch.finfo(streams.dtype).tiny)).clamp(max=1)


def projected(main: Tensor, streams: Tensor) -> Tensor:
    """`streams` without its part against `main`, so that a small step along it does not raise the main stream's loss;
    as it is where the two do not point against each other (gradient surgery, arXiv 2001.06782)."""
    against = (main * streams).sum().clamp(max=0)
    return streams - against / main.square().sum().clamp(min=torch.finfo(main.dtype).tiny) * main


_ALLOWED: dict[StreamGradient, Callable[[Tensor, Tensor], Tensor]] = {"scaled": scaled, "projected": projected}


def joined(
    main: Tensor,
    streams: Tensor,
    shared: Sequence[nn.Parameter],
    own: Sequence[nn.Parameter],
    how: StreamGradient,
) -> Tensor:
    """A loss of the value `main` + `streams` whose gradients at the parameters are joined as `how` says.

    It is linear in the parameters, so an optimiser, accumulation over micro-batches and processes see an ordinary loss;
    each micro-batch of each process is joined by itself. Goes back through the model twice, and frees its graph.

    Args:
        main, streams: scalars with gradient.
        shared: the LoRA's tensors.
        own: the streams' own parameters, which keep the gradient of `streams`.
        how: "scaled" or "projected".
    """
    allowed = _ALLOWED[how]
    of_main = torch.autograd.grad(main, shared, retain_graph=True, materialize_grads=True)
    of_streams = torch.autograd.grad(streams, (*shared, *own), materialize_grads=True)
    gradients = [m + allowed(m, s) for m, s in zip(of_main, of_streams[: len(shared)], strict=True)]
    gradients += of_streams[len(shared) :]
    total = (main + streams).detach()
    for parameter, gradient in zip((*shared, *own), gradients, strict=True):
        total = total + ((parameter - parameter.detach()) * gradient).sum()
    return total
