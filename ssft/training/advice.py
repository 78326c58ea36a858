"""What a stranger should choose: the settings of a run beside those that did well here, and why.

Every reason is a measurement in docs/log.md, which docs/choosing.md retells with the machine. They are few and of one
small base, so this is where to begin, not where to end.
"""

from dataclasses import dataclass
from typing import Any

from ssft.streams.config import layers_of_share
from ssft.tables import duration

GOOD_SHARES = {"shared": 0.27, "lossless": 0.4}
"""N_s / N of the runs that did well on a base of 30 layers, the one of all measurements, by mode."""
STEPS = 200
"""Steps of 2 rows in which streams came to teacher-forced chains of 1.65 to 3.64 tokens."""


@dataclass
class Advice:
    """One setting: its key in a recipe or override, what the run has, what to begin with, and why."""

    setting: str
    now: Any
    advised: str
    why: str


def advise(args: Any, rank: int, layers: int, rows: int, cost: dict[str, float]) -> list[Advice]:
    """Advice on a run with streams.

    Args:
        args: its `StreamSFTConfig`.
        rank: of its LoRA.
        layers: N, decoder layers of its base.
        rows: of its training data.
        cost: its `steps` and `seconds` as `estimate` tells them.
    """
    lossless = args.mode == "lossless"
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps, seconds = int(cost["steps"]), cost["seconds"]
    epochs = STEPS * batch / max(rows, 1)
    return [
        Advice("mode", args.mode, "lossless where answers must not change", _MODE[args.mode]),
        Advice(
            "num_streams",
            args.num_streams,
            "6; 4 where many answers are right",
            "a pass yields one token more than there are streams, at most; deep drafts are seldom right in free text",
        ),
        Advice(
            "num_msa_layers",
            args.num_msa_layers,
            f"{layers_of_share(GOOD_SHARES[args.mode], layers)} of {layers}",
            "more layers beat more rank at as many parameters; each makes a pass dearer",
        ),
        Advice(
            "lora.r",
            rank,
            "8" if lossless else "16, or lossless",
            "8 in 12 layers was best a minute" if lossless else "in rank 4 text and streams lack room for both",
        ),
        Advice(
            "per_device_train_batch_size",
            args.per_device_train_batch_size,
            "2 where the time is minutes",
            "steps count more than rows: 150 steps of 2 rows far outdid 66 steps of 4",
        ),
        Advice(
            "max_steps",
            f"{steps:,} in {duration(seconds)}",
            f"{STEPS} at least, in {duration(seconds / max(steps, 1) * STEPS)}",
            f"{STEPS} steps of 2 rows gave chains of 1.65 to 3.64 tokens. Here they are {epochs:.2g} times the "
            f"{rows:,} rows",
        ),
    ]


_MODE = {
    "shared": "streams that share the LoRA of the text cost some right answers; set adapter=FOLDER, too",
    "lossless": "the streams have a LoRA of their own, and the text stays as it is",
}
