"""What both trainers of speculation share over TRL's `SFTTrainer`: which tokens count, how losses are scaled, logs."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from ssft.errors import ConfigError
from ssft.training.loss import IGNORE, NgramLoss, chain_acceptance, stream_targets


class SpeculationMetrics(SFTTrainer):
    """Losses by name, tokens, and how deep chains of guesses are accepted, in the logs of `SFTTrainer`."""

    model: Any
    num_guesses: int
    """How many tokens after the next one are guessed."""
    loss_names: list[str]
    """Names of the losses that `score` returns."""

    @abstractmethod
    def score(self, model: nn.Module, inputs: dict[str, Any], sources: Tensor, real: Any, targets: Tensor) -> NgramLoss:
        """The losses of a batch.

        Args:
            sources: [B, S] from `stream_targets`.
            real: the index of its M entries that are no padding.
            targets: [M, num_guesses+1], those of the real ones.
        """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Weighted loss per completion token of the whole accumulated batch."""
        if return_outputs:
            raise ConfigError(
                "compute_metrics/preprocess_logits_for_metrics need the full logits, which are never built here; "
                "leave them unset and read the logged metrics"
            )
        sources, targets = stream_targets(inputs["labels"], self.num_guesses)
        real = (targets[..., 0] != IGNORE).nonzero(as_tuple=True)
        loss = self.score(model, inputs, sources, real, targets[real])
        if not self.model.training:
            self._log_acceptance(real[0], loss.choices, targets[real])
        self._log_losses(self.loss_names, loss.sums, loss.counts, inputs["attention_mask"])
        return self._per_token(self.joined_loss(loss), len(real[0]), num_items_in_batch)

    def joined_loss(self, loss: NgramLoss) -> Tensor:
        """The loss to go back from, a scalar."""
        return loss.total

    def _log_losses(self, names: list[str], sums: Tensor, counts: Tensor, attention_mask: Tensor) -> None:
        """Mean losses from `sums` and `counts` [len(names)] of this rank, and the tokens of `attention_mask`."""
        mode = "train" if self.model.training else "eval"
        both = self.accelerator.reduce(torch.cat((sums, counts.to(sums))), reduction="sum")
        totals, numbers = both.cpu().chunk(2)
        for name, total, number in zip(names, totals.tolist(), numbers.tolist(), strict=True):
            if number:
                self._metrics[mode][name].append(total / number)
        if mode == "train":
            tokens = self.accelerator.reduce(attention_mask.sum(), reduction="sum").item()
            self._total_train_tokens += int(tokens)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _log_acceptance(self, rows: Tensor, choices: Tensor, targets: Tensor) -> None:
        """`choices` and `targets` [M, num_guesses+1], the main stream's in column 0; `rows` [M]: their sequence."""
        counts = [chain_acceptance(choices[rows == b], targets[rows == b]) for b in rows.unique()]
        if not counts:
            return
        accepted, possible = (torch.stack(parts).sum(0) for parts in zip(*counts, strict=True))
        shares = (accepted / possible.clamp(min=1)).tolist()
        for depth, share in enumerate(shares, start=1):
            self._metrics["eval"][f"acceptance_{depth}"].append(share)
        self._metrics["eval"]["chain_tokens_per_call"].append(1 + sum(shares))

    def _per_token(self, total: Tensor, own: int, num_items: Tensor | int | None) -> Tensor:
        """The sum `total` over `own` tokens -> its mean over those of all micro-batches and ranks, as TRL does."""
        tokens = own if num_items is None else num_items
        scaled = total / torch.as_tensor(tokens, device=total.device).clamp(min=1)
        if num_items is None or not self.args.average_tokens_across_devices:
            return scaled
        # DDP averages gradients over ranks while `num_items` counts the tokens of all of them.
        return scaled * self.accelerator.num_processes


def needed_mask(attention_mask: Tensor) -> Tensor | None:
    """The mask [B, T] for a causal model, or None where padding stands on the right: no row sees it then, and without a
    mask SDPA takes its fast path."""
    right = bool((attention_mask[:, 1:] <= attention_mask[:, :-1]).all())
    return None if right else attention_mask
