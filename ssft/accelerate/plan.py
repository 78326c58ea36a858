"""What an acceleration chooses by itself: how its time is split, and the shape of the streams."""

from dataclasses import dataclass

from ssft.training.advice import GOOD_SHARES, STEPS

SHARES = {"distil": 0.3, "train": 0.6, "measure": 0.1}
"""How the time is split between the stages; verifying and tuning share the last part."""
MOST_EPOCHS = 8
"""Passes over the rows, at most: more time than that is left over."""
LEAST_STEPS = 3
"""Steps of a training, however short the time."""


@dataclass(frozen=True)
class Shape:
    """γ, the share N_s / N of the base's layers, and the rank of the streams' LoRA."""

    num_streams: int
    layer_share: float
    rank: int


SHAPES = (Shape(4, GOOD_SHARES["lossless"], 8), Shape(3, 0.27, 8), Shape(2, 0.17, 8))
"""The shapes that are tried in turn, until `STEPS` steps fit into the time; each makes a step cheaper than the last."""


def steps_in(seconds: float, step_seconds: float, rows: int, batch: int) -> int:
    """Steps that fit into the time, at most those of `MOST_EPOCHS` passes over the rows."""
    most = max(MOST_EPOCHS * rows // batch, LEAST_STEPS)
    return max(min(int(seconds / step_seconds), most), LEAST_STEPS)


def enough(steps: int, rows: int, batch: int) -> bool:
    """Whether a shape is affordable: `STEPS` steps fit, or all that the rows are good for."""
    return steps >= min(STEPS, MOST_EPOCHS * rows // batch)
