"""CUDA graphs of passes: what runs as a thousand launches is recorded once, and launched as one from then on."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Run = Callable[[], tuple[Tensor, Tensor | None]]
"""One pass: the decoder's output. What a graph leaves stands in the same tensors every time."""

Capture = Callable[[Run], Run]
"""Records a pass; what comes back runs it again, on whatever stands in the tensors that it read."""

_ONE_AT_A_TIME = threading.Lock()
"""Of all threads of a process one may capture."""


class CudaGraphs:
    """Captures passes on one device. All graphs share one block of memory for what they leave and what lies between,
    so that the output of one is read before another runs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()

    def __call__(self, forward: Run) -> Run:
        """Runs `forward` twice; raises `RuntimeError` where a graph cannot hold it."""
        with _ONE_AT_A_TIME, torch.cuda.device(self.device):
            now = torch.cuda.current_stream()
            # Libraries prepare themselves in the first run on a stream, which no graph could hold.
            self._stream.wait_stream(now)
            with torch.cuda.stream(self._stream), NoHostReads():
                forward()
            now.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may copy adapters meanwhile. A capture that fails leaves its own stream the current one.
            mode = "thread_local"
            with torch.cuda.stream(now), torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
                output = forward()

        def replay() -> tuple[Tensor, Tensor | None]:
            graph.replay()
            return output

        return replay


class NoHostReads(TorchDispatchMode):
    """Inside, an operator raises `RuntimeError` that reads values on the host, or brings some from there.

    A graph would hold what it found while it was recorded. It is looked for before a capture, since CUDA says less
    about it, and on a CPU nobody says anything.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # an operator that is made of others, which inference mode does not take apart
            if (output := func.decompose(*args, **kwargs)) is not NotImplemented:
                return output
        if _meets_the_host(func, args, kwargs):
            raise RuntimeError(f"{func} needs the host in the middle of a pass")
        return func(*args, **kwargs)


_aten = torch.ops.aten
_HOST = {
    _aten._local_scalar_dense,  # item(), int(), `if` on a tensor
    _aten.lift_fresh,  # torch.tensor([..])
    _aten.nonzero,
    _aten.masked_select,
    _aten.equal,
    _aten.allclose,
    _aten.repeat_interleave,  # by a tensor
    _aten.bincount,
    _aten._unique2,
}


def _meets_the_host(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operator makes host and device wait for each other."""
    packet = func.overloadpacket
    if packet in (_aten.index, _aten.index_put, _aten.index_put_):  # by a mask, the size depends on the values
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if packet is _aten._to_copy:
        return _elsewhere(args[0], kwargs.get("device"))
    if packet is _aten.copy_:
        return _elsewhere(args[0], args[1].device)
    return packet in _HOST


def _elsewhere(tensor: Tensor, device: torch.device | None) -> bool:
    """Whether `device` is another one than the tensor's; without a number it is any of its kind."""
    own = tensor.device
    return device is not None and (device.type != own.type or device.index not in (None, own.index))
