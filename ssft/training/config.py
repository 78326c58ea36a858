"""`StreamSFTConfig`: TRL's `SFTConfig` plus the streams."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ssft.errors import ConfigError
from ssft.schema import ABOVE_ZERO, NOT_NEGATIVE, SHARE, check_fields
from ssft.streams.config import StreamConfig
from ssft.training.loss import Supervision


@dataclass
class StreamSFTConfig(StreamConfig, SFTConfig):
    """Arguments of `StreamSFTTrainer`: every `SFTConfig` field, every `StreamConfig` field, and the loss settings.

    The loss is `L = α_0 · CE(main, y_t) + Σ_j α_j · CE(stream j, y_{t+j})` (paper §3.2.4), on completion tokens only.
    """

    main_loss_weight: NOT_NEGATIVE = field(
        default=1.0, metadata={"help": "weight α_0 of the main stream's loss on the next token"}
    )
    stream_loss_weight: NOT_NEGATIVE = field(default=0.1, metadata={"help": "weight α_j of the loss of each stream"})
    stream_loss_warmup_ratio: SHARE = field(
        default=0.0,
        metadata={
            "help": "share of all steps during which α_j grows linearly from 0 to its value. Streams begin with a loss "
            "near ln(vocabulary) and would otherwise pull at the main stream's LoRA"
        },
    )
    stream_supervision: Supervision = field(
        default="reference",
        metadata={
            "help": "what streams learn: reference, the tokens of the completion, or main, the distribution that the "
            "main stream has at that place. A draft is accepted when it is what the main stream says"
        },
    )
    stream_learning_rate: ABOVE_ZERO | None = field(
        default=None, metadata={"help": "learning rate of P_j and f_η; with none they have that of the LoRA"}
    )

    def __post_init__(self) -> None:
        SFTConfig.__post_init__(self)
        StreamConfig.__post_init__(self)
        check_fields(self, StreamSFTConfig)
        check_unpacked(self)


def check_unpacked(args: SFTConfig) -> None:
    """Raise `ConfigError` if TRL is to put several documents into one row."""
    if args.packing or args.padding_free:
        raise ConfigError(
            "packing/padding_free put several documents into one row; what is guessed would cross their borders. Set "
            "packing=False and padding_free=False"
        )
