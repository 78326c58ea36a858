"""Medusa's heads (arXiv 2401.10774): networks on the main state that guess the next tokens one by one.

Head j at token t reads what the base's head reads there and guesses y_{t+j}, the very token that stream j guesses, so
that streams and heads differ in nothing but where the guess comes from.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssft.errors import ConfigError

MAX_HEADS, MAX_LAYERS = 16, 8


@dataclass
class MedusaConfig:
    """Shape of the Medusa heads of one adapter, and the weights of their losses."""

    num_heads: int = field(
        default=4,
        metadata={"help": "number of heads; head j guesses the token j places after the next one, as stream j does"},
    )
    num_layers: int = field(
        default=1,
        metadata={"help": "number of residual blocks x + SiLU(W·x + b) in each head, below its own vocabulary matrix"},
    )
    loss_decay: float = field(
        default=0.8,
        metadata={
            "help": "the loss of head j has the weight loss_decay^j, since far tokens are harder and needed less often"
        },
    )

    def check_medusa(self) -> None:
        """Raise `ConfigError` if a field is out of range."""
        for name, most in (("num_heads", MAX_HEADS), ("num_layers", MAX_LAYERS)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise ConfigError(f"medusa.{name}={value}: must lie between 1 and {most}; set {name} in that range")
        if not 0 < self.loss_decay <= 1:
            raise ConfigError(
                f"medusa.loss_decay={self.loss_decay}: must lie above 0 and be at most 1; 1 weighs all heads alike"
            )


class MedusaHead(nn.Module):
    """One head: finished states [.., h] -> logits [.., V]."""

    def __init__(self, num_layers: int, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_layers))
        self.output = nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """[.., h] -> [.., V]."""
        for block in self.blocks:
            states = states + F.silu(block(states))
        return self.output(states)


class MedusaHeads(nn.Module):
    """All heads of one adapter; `heads[j-1]` guesses y_{t+j}."""

    def __init__(self, config: MedusaConfig, hidden_size: int, vocab_size: int) -> None:
        """`hidden_size`: width of what the base's head reads."""
        super().__init__()
        config.check_medusa()
        self.config = config
        self.heads = nn.ModuleList(
            MedusaHead(config.num_layers, hidden_size, vocab_size) for _ in range(config.num_heads)
        )

    @classmethod
    def from_base(cls, config: MedusaConfig, head: Any) -> "MedusaHeads":
        """Fresh heads in float32 beside the base's own `head` [V, h]: each starts as its guess of the next token.

        SiLU of zero is zero, so that zero blocks are the identity (as in Medusa).
        """
        weight = head.weight
        if not weight.is_floating_point():
            raise ConfigError(
                f"the base's head is stored as {weight.dtype}, from which no Medusa head can be copied; load a base "
                "whose head is not quantised"
            )
        # No random values are drawn: every one of them would be overwritten.
        with torch.device("meta"):
            heads = cls(config, weight.shape[1], weight.shape[0])
        heads.to_empty(device=weight.device)
        with torch.no_grad():
            for name, parameter in heads.named_parameters():
                if ".output." in name:
                    parameter.copy_(weight)
                else:
                    parameter.zero_()
        return heads

    def forward(self, states: Tensor) -> Tensor:
        """Finished states [.., h] -> logits [.., num_heads, V]."""
        return torch.stack([head(states) for head in self.heads], dim=-2)

    def count(self) -> int:
        """Parameters that inference needs beside base and LoRA."""
        return sum(p.numel() for p in self.parameters())
