"""`StreamSFTConfig`: TRL's `SFTConfig` plus the streams."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from trl import SFTConfig

from ssft.errors import ConfigError
from ssft.schema import ABOVE_ZERO, DECAY, FROM_ZERO, NOT_NEGATIVE, SHARE, check_fields
from ssft.streams.config import StreamConfig, layers_of_share
from ssft.training.gradients import StreamGradient
from ssft.training.loss import MainSupervision, Supervision

LAYERS = Annotated[
    int | Annotated[float, Field(gt=0, lt=1)],
    "a whole number of layers from 1, or a share of the base's layers above 0 and below 1",
]


@dataclass
class StreamSFTConfig(StreamConfig, SFTConfig):
    """Arguments of `StreamSFTTrainer`: every `SFTConfig` field, every `StreamConfig` field, and the loss settings.

    The loss is `L = α_0 · CE(main, y_t) + Σ_j α_j · CE(stream j, y_{t+j})` (paper §3.2.4), on completion tokens only.
    """

    num_msa_layers: LAYERS = field(  # type: ignore[assignment]  # a number only once the base is known
        default=8,
        metadata={
            "help": "N_s: top decoder layers that run multi-stream attention; below 1 the share of the base's layers "
            "that they are, so 0.4 is 12 layers of 30"
        },
    )
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
            "help": "what streams learn: reference, the tokens of the completion; main, the distribution that the main "
            "stream has at that place, which decides what is accepted; acceptance, -log Σ min(p, q), the share of that "
            "distribution p which a stream's own, q, covers; accepted_length, the same share of all streams together, "
            "as the length to which a chain of them is accepted"
        },
    )
    stream_loss_decay: DECAY = field(
        default=1.0,
        metadata={
            "help": "the loss of stream j has the weight stream_loss_weight · stream_loss_decay^(j-1); below 1 far "
            "tokens, which are harder and needed less often, count less"
        },
    )
    prune_loss_weight: NOT_NEGATIVE = field(
        default=0.1,
        metadata={
            "help": "weight of the next-token loss of the prune head's early exit, where streams have such a head "
            "(prune_head_rank); no other parameter is pulled at"
        },
    )
    stream_loss_weight_end: NOT_NEGATIVE | None = field(
        default=None,
        metadata={
            "help": "what α_j has come to at the last step, falling linearly from stream_loss_weight (from the end of "
            "its warm-up); with none it stays. Streams learn first, and the text has the last word"
        },
    )
    stream_gradient: StreamGradient = field(
        default="summed",
        metadata={
            "help": "how the streams' gradient joins the main stream's in each tensor of the LoRA that both share: "
            "summed; scaled, made no longer than it; projected, without the part that points against it. The last two "
            "go back through the model twice"
        },
    )
    main_supervision: MainSupervision = field(
        default="reference",
        metadata={
            "help": "what the main stream learns: reference, the tokens of the completion; start, the distribution "
            "that it had as the run began, such as that of the plain LoRA in adapter=, by their KL divergence; both, "
            "the sum of the two losses. Evaluation measures it against the reference"
        },
    )
    stream_learning_rate: ABOVE_ZERO | None = field(
        default=None, metadata={"help": "learning rate of P_j, f_η and o_θ; with none they have that of the LoRA"}
    )
    measure_steps: FROM_ZERO = field(
        default=100,
        metadata={
            "help": "steps between two measurements of tokens per call, for which some validation rows are decoded "
            "with the streams as they are, by the adapter's own tree; 0: never"
        },
    )
    measure_rows: FROM_ZERO = field(
        default=4, metadata={"help": "validation rows that each such measurement decodes, at most 64 tokens of each"}
    )
    stop_at_tokens_per_call: float | None = field(
        default=None,
        metadata={
            "help": "the run ends where a measurement reaches that many tokens per call, whatever steps are left (the "
            "learning rate has not fallen to its end then); with none it takes all its steps"
        },
    )

    draft_vocabulary: FROM_ZERO = field(
        default=4096,
        metadata={
            "help": "token ids that the streams guess from, those that the training rows use most; a batch of training "
            "adds its own, and a request those of its prompt. Fewer make a training step and a draft cheaper, and the "
            "text stays what it is. 0: all"
        },
    )

    def __post_init__(self) -> None:
        SFTConfig.__post_init__(self)
        StreamConfig.__post_init__(self)
        check_fields(self, StreamSFTConfig)
        target = self.stop_at_tokens_per_call
        if target is not None and not target > 1:
            raise ConfigError(
                f"stop_at_tokens_per_call={target:g}: plain decoding has 1 token per call; set a target above 1"
            )
        check_unpacked(self)
        self._check_shared()

    def _check_shared(self) -> None:
        """Raise `ConfigError` for settings of a shared LoRA that contradict each other or the mode."""
        keys = ("main_supervision", "stream_gradient")
        told = [key for key in keys if getattr(self, key) != getattr(StreamSFTConfig, key)]
        if told and self.mode == "lossless":
            raise ConfigError(
                f"{told[0]}={getattr(self, told[0])}: this is about a LoRA that text and streams share, and with "
                f"mode=lossless the text learns nothing; leave {told[0]} out, or set mode=shared"
            )
        if self.main_supervision == "start" and self.stream_gradient == "scaled":
            raise ConfigError(
                "main_supervision=start with stream_gradient=scaled: the main stream has no gradient as long as it "
                "says what it said at the start, so streams would never move the LoRA; set main_supervision=both, or "
                "stream_gradient=projected"
            )
        if self.stream_loss_weight_end is not None and self.stream_loss_warmup_ratio == 1:
            raise ConfigError(
                f"stream_loss_weight_end={self.stream_loss_weight_end:g} with stream_loss_warmup_ratio=1: the weight "
                "grows until the last step and has none left to fall in; set a smaller stream_loss_warmup_ratio"
            )

    def settle_layers(self, num_layers: int) -> None:
        """Put a number in the place of a share of layers, now that the base's N = `num_layers` is known; `ConfigError`
        if streams do not fit into such a base."""
        if isinstance(self.num_msa_layers, float):
            self.num_msa_layers = layers_of_share(self.num_msa_layers, num_layers)
        self.check_streams(num_layers)


def check_unpacked(args: SFTConfig) -> None:
    """Raise `ConfigError` if TRL is to put several documents into one row."""
    if args.packing or args.padding_free:
        raise ConfigError(
            "packing/padding_free put several documents into one row; what is guessed would cross their borders. Set "
            "packing=False and padding_free=False"
        )
