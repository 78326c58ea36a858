"""What a run will roughly cost, for `--dry-run`: one micro-batch goes forward and backward here, and is timed."""

import resource
import sys
import time
from typing import Any

import torch


def estimate(trainer: Any, exact: bool = False) -> dict[str, float]:
    """`steps`, `seconds` and `memory_gib` of the run that `trainer` is about to do; no weight changes.

    The memory is the most that this process has taken until now, and Adam's two moments of what is trained. `exact`:
    the seconds are not rounded to whole ones.
    """
    args, model, loader = trainer.args, trainer.model, trainer.get_train_dataloader()
    batch = next(iter(loader))
    model.train()
    begin = time.perf_counter()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(model, batch)
    loss.backward()
    loss.item()  # waits for the device
    seconds = (time.perf_counter() - begin) * args.gradient_accumulation_steps
    model.zero_grad()
    steps = args.max_steps
    if steps <= 0:
        steps = int(len(loader) / args.gradient_accumulation_steps * args.num_train_epochs)
    moments = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return {
        "steps": steps,
        "seconds": steps * seconds if exact else round(steps * seconds),
        "memory_gib": round((_peak_bytes(args.device) + moments) / 2**30, 2),
    }


def _peak_bytes(device: torch.device) -> int:
    """Most bytes that torch has taken on a GPU, or that the process has taken."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
