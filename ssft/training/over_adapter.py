"""`OverAdapter`: what trainers share that train something small over a frozen base with its frozen LoRA."""

import copy
from typing import Any

from torch import nn
from trl import SFTConfig

from ssft.training.config import check_unpacked
from ssft.training.metrics import SpeculationMetrics


class OverAdapter(SpeculationMetrics):
    """TRL's `SFTTrainer` over a model's active adapter; data, masks, schedule and arguments are TRL's, as for streams.

    The base runs as it decodes: in its own type, in eval mode, with its LoRA, without gradients. Checkpoints hold what
    is trained, the optimiser and the trainer's state.
    """

    args: SFTConfig
    model: Any

    def __init__(self, adapted: Any, args: SFTConfig, **keywords: Any) -> None:
        """`adapted`: a `MultiAdapterModel`, frozen; `keywords`: datasets, tokenizer, callbacks as `SFTTrainer` has."""
        check_unpacked(args)
        adapted.model.requires_grad_(False).eval()
        self.adapted = adapted
        # Nothing is propagated back through the base, so there is nothing to recompute in it.
        args = copy.copy(args)
        args.gradient_checkpointing = args.activation_checkpointing = False
        # A trainer refuses a 4-bit base without adapters: here something else trains instead.
        adapted.model._hf_peft_config_loaded = True
        try:
            super().__init__(adapted.model, args, **keywords)
        finally:
            adapted.model._hf_peft_config_loaded = False
        self.backbone = adapted.hooks.backbone

    def train_only(self, module: nn.Module) -> None:
        """From here on the trainer knows no other model than `module`."""
        self.model = self.model_wrapped = self.callback_handler.model = module

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing: a checkpoint of what is trained alone is no model to share."""
