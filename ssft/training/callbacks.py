"""Callbacks of a run: which checkpoints are whole, so that a killed run resumes from one that is."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

MARKER = "complete"


class MarkComplete(TrainerCallback):
    """Leaves the file `complete` in a checkpoint that was written to its end: `on_save` comes after its last file."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / MARKER).touch()


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` that was written to its end, or None."""
    found = [
        (int(number), path)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (number := path.name.rpartition("-")[2]).isdigit() and (path / MARKER).exists()
    ]
    return max(found)[1] if found else None
