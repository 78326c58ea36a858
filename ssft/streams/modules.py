"""The parameters of the streams: P_j, f_η (paper §3.2.1) and o_θ (§3.2.3); value rotation has none (appendix B)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssft.streams.config import StreamConfig

CONTAINER = "ssft_streams"
"""Name of the `ModuleDict {adapter: StreamModules}` on peft's tuner: PEFT then saves, loads and resumes it itself."""


class StreamModules(nn.Module):
    """The stream parameters of one adapter, kept in float32 whatever the base's precision.

    `stream_embeddings` P [γ, h]; `projection_down` [η, h] and `projection_up` [h, η] where η > 0; `prune_down` [θ, h]
    and `prune_up` [h, θ] where θ > 0. f_η and o_θ are residual and start as the identity, as their `up` starts at zero.
    """

    def __init__(self, config: StreamConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        if config.identifier == "embedding":
            # The scale of a token embedding: large enough to tell the streams apart from the first step on.
            self.stream_embeddings = nn.Parameter(torch.randn(config.num_streams, hidden_size) * 0.02)
        if config.projection_rank:
            self.projection_down, self.projection_up = _low_rank(config.projection_rank, hidden_size)
        if config.prune_head_rank:
            self.prune_down, self.prune_up = _low_rank(config.prune_head_rank, hidden_size)

    @property
    def msa_layers(self) -> tuple[int, ...]:
        """The N_s at which streams start: one here, several in a mixed batch (`mixed.py`)."""
        return (self.config.num_msa_layers,)

    def insert(self, main: Tensor, num_streams: int) -> Tensor:
        """S_{tj} = f_η(M_t) + P_j at the insertion layer: main [B, S, h] -> streams [B, S·g, h].

        `num_streams` g <= γ: decoding may ask for the first g streams only; no stream sees a later one.
        """
        state = main
        if self.config.projection_rank:
            state = _mapped(main, self.projection_down, self.projection_up)
        streams = state.unsqueeze(2).expand(-1, -1, num_streams, -1)
        if self.config.identifier == "embedding":
            streams = streams + self.stream_embeddings[:num_streams].to(main.dtype)
        return streams.flatten(1, 2)

    def early_exit(self, main: Tensor) -> Tensor:
        """o_θ(M): what final norm and head read of main states [.., h] at the insertion layer (paper §3.2.3).

        The map is residual: of a map of rank 8 alone eight numbers of a state would be left to tell all tokens apart.
        """
        return _mapped(main, self.prune_down, self.prune_up)

    @property
    def rotates(self) -> bool:
        """Whether stream j is told apart by the rotation of its attention values (appendix B)."""
        return self.config.identifier == "rotation"

    def rotate_values(self, values: Tensor, num_streams: int) -> Tensor:
        """Value rotation: values [B, H, S·g, D] of stream j turned by j·π/(2γ) in each plane."""
        angle = torch.arange(1, num_streams + 1, device=values.device) * (math.pi / (2 * self.config.num_streams))
        angle = angle.repeat(values.shape[-2] // num_streams).unsqueeze(-1)
        cos, sin = angle.cos().to(values.dtype), angle.sin().to(values.dtype)
        a, b = values.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

    def count(self) -> int:
        """Number of extra parameters that inference needs beside the LoRA."""
        return sum(p.numel() for p in self.parameters())


def _low_rank(rank: int, hidden_size: int) -> tuple[nn.Parameter, nn.Parameter]:
    """down [rank, h] and up [h, rank] of a residual map that starts as the identity."""
    return (
        nn.Parameter(torch.randn(rank, hidden_size) / hidden_size**0.5),
        nn.Parameter(torch.zeros(hidden_size, rank)),
    )


def _mapped(state: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """state + (state downᵀ) upᵀ, in the type of state [.., h]."""
    return state + (state @ down.to(state.dtype).T) @ up.to(state.dtype).T


def attach_streams(peft_model: Any, config: StreamConfig, adapter: str = "default") -> StreamModules:
    """Give `adapter` of a `PeftModel` its stream parameters and return them.

    They sit on the tuner (`peft_model.base_model.ssft_streams[adapter]`), where PEFT's own save, load and resume
    find them.
    """
    tuner = peft_model.base_model
    config.check_streams(peft_model.get_base_model().config.num_hidden_layers)
    if not hasattr(tuner, CONTAINER):
        setattr(tuner, CONTAINER, nn.ModuleDict())
    modules = StreamModules(config.stream_config(), peft_model.get_base_model().config.hidden_size)
    device = next(p.device for p in peft_model.parameters())
    getattr(tuner, CONTAINER)[adapter] = modules.to(device)
    return modules


def streams_of(peft_model: Any, adapter: str = "default") -> StreamModules | None:
    """The stream parameters of `adapter`, or None if it has none."""
    container = getattr(peft_model.base_model, CONTAINER, None)
    return container[adapter] if container is not None and adapter in container else None
