"""`StreamConfig`: what the speculative streams of one adapter look like (paper §3.2.1)."""

from dataclasses import dataclass, field, fields
from typing import Any

from ssft.errors import ConfigError
from ssft.schema import check_fields, shown

IDENTIFIERS = ("embedding", "rotation")
MODES = ("shared", "lossless")
MAX_STREAMS = 16


def layers_of_share(share: float, num_layers: int) -> int:
    """N_s as a share of the N = `num_layers` layers of a base, rounded: at least one layer, and one less than N."""
    return min(max(1, round(share * num_layers)), max(1, num_layers - 1))


@dataclass
class StreamConfig:
    """Shape of the speculative streams; symbols are the paper's (arXiv 2402.11131, §3.2.1).

    The fields are the YAML keys, the command-line overrides and the defaults at once: `metadata["help"]`
    is their only description. `ssft_config.json` of a bundle stores them under the same names.
    """

    num_streams: int = field(
        default=4, metadata={"help": "γ: speculative streams; stream j predicts the token j places after the next one"}
    )
    num_msa_layers: int = field(default=8, metadata={"help": "N_s: top decoder layers that run multi-stream attention"})
    identifier: str = field(
        default="embedding",
        metadata={
            "help": "what tells stream j from its neighbours: 'embedding' adds P_j at the insertion layer (γ·h "
            "parameters), 'rotation' rotates its attention values in proportion to j (appendix B, no parameter)"
        },
    )
    projection_rank: int = field(
        default=0,
        metadata={"help": "η: rank of f_η, the residual low-rank map from main to stream state; 0 is the identity"},
    )

    mode: str = field(
        default="shared",
        metadata={
            "help": "'shared': main stream and streams run with the LoRA; 'lossless': the streams alone do, and the "
            "text stays what it was, the base's own or that of the run's `adapter` (paper §3.2.4)"
        },
    )

    prune_head_rank: int = field(
        default=0,
        metadata={
            "help": "θ: rank of o_θ, the prune head: the residual low-rank map under the base's own norm and head that "
            "gives early-exit logits at the insertion layer (2·θ·h parameters; the paper has rank 8). With it "
            "tree.prune_below and tree.prune_keep can drop branches in the middle of a pass (paper §3.2.3). 0: none"
        },
    )

    def __post_init__(self) -> None:
        self.check_streams()

    def check_streams(self, num_layers: int | None = None) -> None:
        """Raise `ConfigError` if a field is of another type or out of range; `num_layers` is N of the base model if
        known, and the constructor checks without it."""
        check_fields(self, StreamConfig)
        if not 1 <= self.num_streams <= MAX_STREAMS:
            raise ConfigError(
                f"num_streams={shown(self.num_streams)}: γ must lie between 1 and {MAX_STREAMS}; set num_streams in "
                "that range"
            )
        if not self.num_msa_layers > 0:
            raise ConfigError(f"num_msa_layers={shown(self.num_msa_layers)}: streams need at least one layer to run in")
        if num_layers is not None and self.num_msa_layers >= num_layers:
            raise ConfigError(
                f"num_msa_layers={shown(self.num_msa_layers)}: the base has {num_layers} layers and streams start "
                f"above at least one of them; choose a value from 1 to {num_layers - 1}"
            )
        if self.identifier not in IDENTIFIERS:
            raise ConfigError(f"identifier={repr(self.identifier)[:60]}: expected one of {', '.join(IDENTIFIERS)}")
        if self.mode not in MODES:
            raise ConfigError(f"mode={repr(self.mode)[:60]}: expected one of {', '.join(MODES)}")
        if self.projection_rank < 0:
            raise ConfigError(f"projection_rank={shown(self.projection_rank)}: η is 0 (identity) or a positive rank")
        if self.prune_head_rank < 0:
            raise ConfigError(
                f"prune_head_rank={shown(self.prune_head_rank)}: θ is 0 (no prune head) or a positive rank, such as 8"
            )

    def stream_config(self) -> "StreamConfig":
        """The stream fields alone, as a plain `StreamConfig` (subclasses carry more)."""
        return StreamConfig(**{f.name: getattr(self, f.name) for f in fields(StreamConfig)})

    def stream_dict(self) -> dict[str, Any]:
        """The stream fields as JSON-ready values."""
        return {f.name: getattr(self, f.name) for f in fields(StreamConfig)}
