"""The most memory that tensors take while something runs, above what they took before.

What counts is what torch's own allocators hand out: activations, caches, masks, weights that are unpacked on the way.
What libraries take behind them does not: scratch space of a BLAS, a CUDA context, memory that an allocator keeps for
later. So the figure is the same in every run and does not depend on what ran before, unlike the size of the process.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MEMORY_EVENT = "[memory]"
# Source files of torch whose messages say that a recording begins, ends, or saw a block freed that was there before it
# (which rightly does not count).
PROFILER_CHATTER = (b"ProfilerHandler.cpp", b"ActivityProfiler", b"CPUAllocator.cpp")


def peak_bytes(device: torch.device, run: Callable[[], Any]) -> int | None:
    """Call `run` once; most bytes of tensors on `device` during the call, above those before it.

    CUDA's allocator keeps count itself. On the CPU torch's profiler reports every allocation, which slows small
    operations down: nothing should be timed at the same time. What is written to stderr during that call, progress bars
    included, is held back until its end, so that the profiler's own messages can be taken out. None for devices that
    have neither; `run` is called all the same.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type == "cpu":
        return _cpu_peak_bytes(run)
    run()
    return None


def _cpu_peak_bytes(run: Callable[[], Any]) -> int:
    with (
        _stderr_without(PROFILER_CHATTER),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording,
    ):
        run()
    events = recording.profiler.kineto_results.events()  # type: ignore[union-attr]
    return highest_sum(
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == MEMORY_EVENT and event.device_type() == torch.autograd.DeviceType.CPU
    )


def highest_sum(changes: Iterable[tuple[int, int]]) -> int:
    """The highest running sum of changes (time, bytes), at least 0. They may come in any order, as those of several
    threads do; of changes at one time the first given is the first."""
    held = highest = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        held += change
        highest = max(highest, held)
    return highest


@contextmanager
def _stderr_without(parts: Iterable[bytes]) -> Iterator[None]:
    """Hold back what is written to stderr, by C++ too, until the end, and drop lines that hold any of `parts`."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not any(part in line for part in parts):
                    os.write(2, line)
