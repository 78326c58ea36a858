"""The most memory of a GPU that tensors take while something runs, above what they took before."""

from collections.abc import Callable

import torch


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
