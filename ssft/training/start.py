"""What a shared LoRA said as its run began, which the main stream may have to go on saying while streams learn."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ssft.base.backbone import Backbone
from ssft.training.loss import HEAD_ROWS
from ssft.training.metrics import needed_mask


class Start:
    """A copy of the tensors that train, as they are now, and the text that they make.

    >>> start = Start(backbone)
    >>> ...                                                          # some steps
    >>> divergence(main, start.states(inputs)[chosen], backbone.logits)
    """

    def __init__(self, backbone: Backbone) -> None:
        self.decoder = backbone.decoder
        trained = ((name, p) for name, p in self.decoder.named_parameters() if p.requires_grad)
        self.values = {name: p.detach().clone() for name, p in trained}

    @torch.no_grad()
    def states(self, inputs: dict[str, Any]) -> Tensor:
        """What the head read at the start: [B, T, h] for a batch with `input_ids` and `attention_mask` [B, T]."""
        words = {"input_ids": inputs["input_ids"], "attention_mask": needed_mask(inputs["attention_mask"])}
        training = self.decoder.training
        self.decoder.eval()  # without dropout
        try:
            return functional_call(self.decoder, self.values, (), {**words, "use_cache": False}).last_hidden_state
        finally:
            self.decoder.train(training)


def divergence(main: Tensor, start: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ KL(p_start ‖ p_main) over M sources, with gradient for `main` alone; 0 as long as nothing has changed.

    Args:
        main, start: [M, h], what the head reads at each source, now and as the run began.
        logits: the head, [rows, h] -> [rows, V].
    """

    def score(main: Tensor, start: Tensor) -> Tensor:
        now, then = logits(main).float().log_softmax(dim=-1), logits(start).detach().float().log_softmax(dim=-1)
        return F.kl_div(now, then, reduction="sum", log_target=True)

    pieces = zip(main.split(HEAD_ROWS // 2), start.split(HEAD_ROWS // 2), strict=True)
    return torch.stack([checkpoint(score, *piece, use_reentrant=False) for piece in pieces]).sum()
