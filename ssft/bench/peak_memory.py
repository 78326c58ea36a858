"""The most memory that tensors take while something runs, above what they took before."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int | None:
    """Call `run` once; most bytes of tensors on `device` during the call, above those before it, as CUDA's allocator
    counts them. None for other devices, which keep no such count; `run` is called all the same."""
    if device.type != "cuda":
        run()
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def recorded_peak_bytes(run: Callable[[], object]) -> int:
    """Call `run` once on the CPU; the same by the allocator's own record, which makes the call slow."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    highest = current = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        highest = max(highest, current)
    return highest
