"""`MedusaTrainer`: TRL's `SFTTrainer` that trains Medusa heads over a frozen base with its frozen LoRA (Medusa-1).

L = Σ_j decay^j · CE(head j, y_{t+j})       on completion tokens; head j has the targets of stream j
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTConfig

from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.errors import ConfigError
from ssft.training.loss import HEAD_ROWS, IGNORE, head_in_chunks, stream_targets
from ssft.training.metrics import SpeculationMetrics
from ssft.training.trainer import is_right_padded


class HeadLosses(nn.Module):
    """What the trainer trains: the heads and nothing else, with their losses as its forward.

    Optimiser, gradient clipping, gradient reduction over processes and checkpoints then see the heads alone.
    """

    def __init__(self, heads: MedusaHeads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """States [M, h] and targets [M, num_heads] (-100 = none) -> cross-entropies, argmaxes, each [M, num_heads].

        At most `HEAD_ROWS` rows of logits of all heads together stay for backward; beyond that they are computed again,
        chunk by chunk.
        """
        chunk = max(HEAD_ROWS // len(self.heads.heads), 1)
        wanted = zip(self.heads.heads, targets.unbind(dim=1), strict=True)
        losses, choices = zip(*(head_in_chunks(states, column, head, chunk) for head, column in wanted), strict=True)
        return torch.stack(losses, dim=1), torch.stack(choices, dim=1)


class MedusaTrainer(SpeculationMetrics):
    """Trains `heads` for a model's active adapter; data, masks, schedule and arguments are TRL's, as for the streams.

    The base runs as it decodes: in its own type, in eval mode, with its LoRA, without gradients. `trainer.heads` is
    the result; checkpoints hold the heads, the optimiser and the trainer's state.

    Logged beside TRL's metrics: `loss_head_1..n` (per token), and at evaluation `acceptance_1..n` and
    `chain_tokens_per_call`, with the meaning they have for `StreamSFTTrainer`.
    """

    args: SFTConfig
    model: Any

    def __init__(self, adapted: Any, config: MedusaConfig, args: SFTConfig, **keywords: Any) -> None:
        """`adapted`: a `MultiAdapterModel`, frozen; `keywords`: datasets, tokenizer, callbacks as `SFTTrainer` has."""
        config.check_medusa()
        if args.packing or args.padding_free:
            raise ConfigError(
                "packing/padding_free put several documents into one row; the heads' targets would cross their "
                "borders. Set packing=False and padding_free=False"
            )
        if adapted.model.device.type != args.device.type:
            raise ConfigError(
                f"the adapted base is on {adapted.model.device.type}, training would run on {args.device.type}; load "
                "the adapter with that device, or set use_cpu"
            )
        adapted.model.requires_grad_(False).eval()
        self.adapted = adapted
        # Nothing is propagated back through the base, so there is nothing to recompute in it.
        args = copy.copy(args)
        args.gradient_checkpointing = args.activation_checkpointing = False
        with _counted_as_adapted(adapted.model):
            super().__init__(adapted.model, args, **keywords)
        self.backbone = adapted.hooks.backbone
        self.heads = MedusaHeads.from_base(config, self.backbone.head)
        # From here on the trainer knows no other model than the heads.
        self.model = self.model_wrapped = self.callback_handler.model = HeadLosses(self.heads)

    # -- loss ---------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Weighted loss of all heads per completion token of the whole accumulated batch."""
        self._refuse_outputs(return_outputs)
        labels, config = inputs["labels"], self.heads.config
        sources, targets = stream_targets(labels, config.num_heads)
        rows, column = (targets[..., 0] != IGNORE).nonzero(as_tuple=True)  # the M real sources
        targets = targets[rows, column]
        states = self._main_states(inputs)[rows, sources[rows, column]]
        with self.accelerator.autocast():
            losses, choices = model(states.float(), targets[:, 1:])
        if not self.model.training:
            main = self._main_choices(states).unsqueeze(1)
            self._log_acceptance(rows, torch.cat((main, choices), dim=1), targets)
        weights = config.loss_decay ** torch.arange(1, config.num_heads + 1, device=losses.device)
        total = (losses * weights).sum()
        names = [f"loss_head_{j}" for j in range(1, config.num_heads + 1)]
        counts = (targets[:, 1:] != IGNORE).sum(dim=0)
        self._log_losses(names, losses.detach().sum(dim=0), counts, inputs["attention_mask"])
        return self._per_token(total, len(targets), num_items_in_batch)

    @torch.no_grad()
    def _main_states(self, inputs: dict[str, Any]) -> Tensor:
        """What the base's head reads [B, T, h], exactly as decoding computes it."""
        ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
        # Padding stands on the right, so a causal row never sees it: without a mask SDPA takes its fast path.
        mask = None if is_right_padded(attention_mask) else attention_mask
        with self.adapted.applied(ids.shape[0]), torch.autocast(ids.device.type, enabled=False):
            return self.backbone.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    @torch.no_grad()
    def _main_choices(self, states: Tensor) -> Tensor:
        """The base's own next tokens [M] at states [M, h]."""
        # One row of the router for all: every state has the same adapter.
        with self.adapted.applied(), torch.autocast(states.device.type, enabled=False):
            return torch.cat([self.backbone.logits(part).argmax(dim=-1) for part in states.split(HEAD_ROWS)])

    # -- what SFTTrainer does with a whole model ----------------------------------------------------------------

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing: a checkpoint of heads alone is no model to share."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: most of them are the frozen base's."""
        return 0


@contextmanager
def _counted_as_adapted(model: Any) -> Iterator[None]:
    """Let a 4-bit base pass the trainer's check, which refuses one without adapters: here the heads train instead."""
    before = model.__dict__.get("_hf_peft_config_loaded")
    model._hf_peft_config_loaded = True
    try:
        yield
    finally:
        if before is None:
            del model._hf_peft_config_loaded
        else:
            model._hf_peft_config_loaded = before
