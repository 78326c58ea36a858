"""The prune head o_θ (paper §3.2.3) learns the next token from the main state at the insertion layer.

    loss_prune = CE(H(o_θ(M_t^{N-N_s})), y_t)       on completion tokens; into M_t no gradient flows

It is joined to the loss of the streams (`trainer.py`), or trained afterwards for a finished adapter, of which every
other tensor stays as it is (`PruneHeadTrainer`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTConfig

from ssft.base.backbone import Backbone
from ssft.errors import ConfigError
from ssft.streams.config import StreamConfig
from ssft.streams.modules import StreamModules
from ssft.training.loss import HEAD_ROWS, IGNORE, NgramLoss, piece_by_piece, token_losses
from ssft.training.metrics import needed_mask
from ssft.training.over_adapter import OverAdapter

LOSS = "loss_prune"
"""Its name in the logs."""


def prune_losses(backbone: Backbone, streams: StreamModules, entered: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies of the early exit at main states [M, h] of the insertion layer, and its choices, each [M].

    targets [M]: the next tokens, -100 = ignored. The gradient reaches o_θ alone.
    """

    def score(entered: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return token_losses(backbone.logits(backbone.finish(streams.early_exit(entered))).float(), targets)

    return piece_by_piece(score, list(zip(entered.detach().split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)))


class PruneLosses(nn.Module):
    """What the trainer trains: the prune head and nothing else, with its losses as its forward."""

    def __init__(self, backbone: Backbone, head: StreamModules) -> None:
        super().__init__()
        self.head = head
        self.backbone = backbone

    def forward(self, entered: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As `prune_losses`."""
        return prune_losses(self.backbone, self.head, entered, targets)


class PruneHeadTrainer(OverAdapter):
    """Trains `head`, the result: a prune head of the rank θ = `rank` for the streams of a model's active adapter.

    `head` is a `StreamModules` that has nothing else. Layers with streams are never run. Logged beside TRL's metrics:
    `loss_prune`.

    Raises:
        ConfigError: the adapter has no streams, or no rank is given.
    """

    def __init__(self, adapted: Any, rank: int, args: SFTConfig, **keywords: Any) -> None:
        streams = adapted.active.streams
        if streams is None:
            raise ConfigError(
                f"{adapted.active.name!r} has no streams, so there is nothing to prune; give an adapter that `ssft "
                "train` wrote"
            )
        if not rank:
            raise ConfigError(
                "training.prune_head_rank=0: a prune head is to be trained, and has no rank; set "
                "training.prune_head_rank, which is 8 in the paper"
            )
        super().__init__(adapted, args, **keywords)
        self.first = self.backbone.num_layers - streams.config.num_msa_layers
        # Without f_η and P_j, which need no copy here.
        config = StreamConfig(num_msa_layers=streams.config.num_msa_layers, identifier="rotation", prune_head_rank=rank)
        self.head = StreamModules(config, self.backbone.config.hidden_size).to(adapted.model.device)
        self.num_guesses, self.loss_names = 0, [LOSS]
        self.train_only(PruneLosses(self.backbone, self.head))

    def score(self, model: nn.Module, inputs: dict[str, Any], sources: Tensor, real: Any, targets: Tensor) -> NgramLoss:
        """The loss of the early exit; there is no other."""
        entered = self._entered(inputs)[real[0], sources[real]]
        with self.accelerator.autocast():
            losses, choices = model(entered, targets[:, 0])
        count = (targets != IGNORE).sum(dim=0)
        total = losses.sum()
        return NgramLoss(total.new_zeros(()), total, total.detach().unsqueeze(0), count, choices.unsqueeze(1))

    @torch.no_grad()
    def _entered(self, inputs: dict[str, Any]) -> Tensor:
        """M^{N-N_s} [B, T, h], exactly as decoding computes it."""
        ids, mask = inputs["input_ids"], needed_mask(inputs["attention_mask"])
        first = self.backbone.layers[self.first]
        with (
            self.adapted.applied(ids.shape[0]),
            torch.autocast(ids.device.type, enabled=False),
            _before(first) as found,
        ):
            self.backbone.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        return found[0]

    def _log_acceptance(self, rows: Tensor, choices: Tensor, targets: Tensor) -> None:
        """Nothing: no chain is drafted."""


class _Reached(Exception):  # noqa: N818 (nothing is wrong)
    """The pass has come as far as it is needed."""


@contextmanager
def _before(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, a pass ends before `layer`; what the layer would have been given stands in the list then."""
    found: list[Tensor] = []

    def stop(_layer: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])
        raise _Reached

    handle = layer.register_forward_pre_hook(stop)
    try:
        yield found
    except _Reached:
        pass
    finally:
        handle.remove()
