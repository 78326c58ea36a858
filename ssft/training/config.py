"""`StreamSFTConfig`: TRL's `SFTConfig` plus the streams."""

from dataclasses import dataclass, field
from typing import get_args

from trl import SFTConfig

from ssft.errors import ConfigError
from ssft.streams.config import StreamConfig
from ssft.training.loss import Supervision


@dataclass
class StreamSFTConfig(StreamConfig, SFTConfig):
    """Arguments of `StreamSFTTrainer`: every `SFTConfig` field, every `StreamConfig` field, and the loss settings.

    The loss is `L = α_0 · CE(main, y_t) + Σ_j α_j · CE(stream j, y_{t+j})` (paper §3.2.4), on completion tokens only.
    """

    main_loss_weight: float = field(default=1.0, metadata={"help": "α_0: weight of the main stream's next-token loss"})
    stream_loss_weight: float = field(default=0.1, metadata={"help": "α_j: weight of each stream's loss"})
    stream_loss_warmup_ratio: float = field(
        default=0.0,
        metadata={
            "help": "share of all steps over which α_j grows linearly to its value; young streams start at a loss "
            "near ln(vocabulary) and would pull at the main stream's LoRA"
        },
    )
    stream_supervision: Supervision = field(
        default="reference",
        metadata={
            "help": "what streams learn: the completion's own tokens, or the main stream's distribution at that place "
            "(a draft is accepted when it is what the main stream says)"
        },
    )
    stream_learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate of P_j and f_η; none: the LoRA's learning_rate"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_streams()
        if self.main_loss_weight < 0 or self.stream_loss_weight < 0:
            raise ConfigError(
                f"main_loss_weight={self.main_loss_weight}, stream_loss_weight={self.stream_loss_weight}: loss weights "
                "cannot be negative"
            )
        if self.stream_supervision not in get_args(Supervision):
            known = " or ".join(get_args(Supervision))
            raise ConfigError(f"stream_supervision={self.stream_supervision!r}: streams learn from {known}")
        if not 0 <= self.stream_loss_warmup_ratio <= 1:
            raise ConfigError(
                f"stream_loss_warmup_ratio={self.stream_loss_warmup_ratio}: a share of the steps, from 0 to 1"
            )
        if self.packing or self.padding_free:
            raise ConfigError(
                "packing/padding_free put several documents into one row; stream targets would cross their borders. "
                "Set packing=False and padding_free=False"
            )
