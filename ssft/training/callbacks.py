"""Callbacks of a run: which checkpoints are whole, so that a killed run resumes from one that is, and the same rows."""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ssft.files import write_bytes

MARKER = "complete"


class MarkComplete(TrainerCallback):
    """Leaves the file `complete` in a checkpoint that was written to its end: `on_save` comes after its last file.

    It holds the seconds that the run has taken since `begin`, by `time.monotonic`.
    """

    def __init__(self, begin: float) -> None:
        self.begin = begin

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_bytes(folder / MARKER, str(time.monotonic() - self.begin).encode("ascii"))


class StopInTime(TrainerCallback):
    """Ends the run at the first step after the time `end`, by `time.monotonic`; what it has learned by then counts."""

    def __init__(self, end: float) -> None:
        self.end = end

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() >= self.end:
            control.should_training_stop = True


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` that was written to its end, or None."""
    found = [
        (int(number), path)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.rpartition("-")[2]).isdigit() and (path / MARKER).exists()
    ]
    return max(found)[1] if found else None


def seconds_until(checkpoint: Path) -> float:
    """What a run took until a complete checkpoint, over all its legs."""
    # An earlier version left the file empty.
    return float((checkpoint / MARKER).read_text(encoding="ascii") or 0)


class OrderByEpoch(TrainerCallback):
    """Lets the order of an epoch's rows depend on the seed and the epoch alone, also where rows are grouped by length.

    The sampler by length draws from torch's own generator: a run that resumed inside a later epoch would draw another
    order, from the state in which the checkpoint holds the generator. In the first epoch that state is the seed's, and
    the random sampler is seeded by epoch already.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        batches = kwargs["train_dataloader"].batch_sampler
        while hasattr(batches, "batch_sampler"):  # that of one process among several
            batches = batches.batch_sampler
        sampler = getattr(batches, "sampler", None)
        if epoch and isinstance(sampler, LengthGroupedSampler):
            seed = args.seed if args.data_seed is None else args.data_seed
            sampler.generator = torch.Generator().manual_seed(seed + epoch)
