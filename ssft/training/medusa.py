"""`MedusaTrainer`: TRL's `SFTTrainer` that trains Medusa heads over a frozen base with its frozen LoRA (Medusa-1).

L = Σ_j decay^j · CE(head j, y_{t+j})       on completion tokens; head j has the targets of stream j
"""

from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTConfig

from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.training.loss import HEAD_ROWS, IGNORE, NgramLoss, piece_by_piece, token_losses
from ssft.training.metrics import needed_mask
from ssft.training.over_adapter import OverAdapter


class HeadLosses(nn.Module):
    """What the trainer trains: the heads and nothing else, with their losses as its forward.

    Optimiser, gradient clipping, gradient reduction over processes and checkpoints then see the heads alone.
    """

    def __init__(self, heads: MedusaHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """States [M, h] and targets [M, num_heads] (-100 = none) -> cross-entropies, argmaxes, each [M, num_heads]."""
        rows = max(HEAD_ROWS // self.heads.config.num_heads, 1)

        def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return token_losses(self.heads(states).float(), targets)

        return piece_by_piece(score, list(zip(states.split(rows), targets.split(rows), strict=True)))


class MedusaTrainer(OverAdapter):
    """Trains `heads`, the result, for a model's active adapter.

    Logged beside TRL's metrics: `loss_head_1..n` (per token), and at evaluation `acceptance_1..n` and
    `chain_tokens_per_call`, with the meaning they have for `StreamSFTTrainer`.
    """

    def __init__(self, adapted: Any, config: MedusaConfig, args: SFTConfig, **keywords: Any) -> None:
        config.check_medusa()
        super().__init__(adapted, args, **keywords)
        self.heads = MedusaHeads.from_base(config, self.backbone.head)
        self.num_guesses = config.num_heads
        self.loss_names = [f"loss_head_{j}" for j in range(1, config.num_heads + 1)]
        self.train_only(HeadLosses(self.heads))

    def score(self, model: nn.Module, inputs: dict[str, Any], sources: Tensor, real: Any, targets: Tensor) -> NgramLoss:
        """The weighted losses of all heads; the main stream has none, and its choices are computed for evaluation."""
        states = self._main_states(inputs)[real[0], sources[real]]
        with self.accelerator.autocast():
            losses, choices = model(states.float(), targets[:, 1:])
        if not self.model.training:
            choices = torch.cat((self._main_choices(states).unsqueeze(1), choices), dim=1)
        weights = self.heads.config.loss_decay ** torch.arange(1, self.num_guesses + 1, device=losses.device)
        counts = (targets[:, 1:] != IGNORE).sum(dim=0)
        total = (losses * weights).sum()
        return NgramLoss(total.new_zeros(()), total, losses.detach().sum(dim=0), counts, choices)

    @torch.no_grad()
    def _main_states(self, inputs: dict[str, Any]) -> Tensor:
        """What the base's head reads [B, T, h], exactly as decoding computes it."""
        ids, mask = inputs["input_ids"], needed_mask(inputs["attention_mask"])
        with self.adapted.applied(ids.shape[0]), torch.autocast(ids.device.type, enabled=False):
            return self.backbone.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    @torch.no_grad()
    def _main_choices(self, states: Tensor) -> Tensor:
        """The base's own next tokens [M] at states [M, h]."""
        # One row of the router for all: every state has the same adapter.
        with self.adapted.applied(), torch.autocast(states.device.type, enabled=False):
            return torch.cat([self.backbone.logits(part).argmax(dim=-1) for part in states.split(HEAD_ROWS)])
