"""What both trainers of speculation log, and the scale of their losses: a mixin over TRL's `SFTTrainer`."""

import time
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer

from ssft.errors import ConfigError
from ssft.training.loss import chain_acceptance


class SpeculationMetrics(SFTTrainer):
    """Losses by name, tokens, speed, and how deep chains of guesses are accepted, in the logs of `SFTTrainer`."""

    model: Any

    def __init__(self, *positional: Any, **keywords: Any) -> None:
        super().__init__(*positional, **keywords)
        self._clock = (time.perf_counter(), 0)

    def _refuse_outputs(self, return_outputs: bool) -> None:
        """Raise `ConfigError` if the trainer wants what the head says of all tokens."""
        if return_outputs:
            raise ConfigError(
                "compute_metrics/preprocess_logits_for_metrics need the full logits, which are never built here; "
                "leave them unset and read the logged metrics"
            )

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
            self._log_speed()
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _log_speed(self) -> None:
        """Tokens per second of all ranks since the last step; averaged when the trainer logs."""
        before, tokens = self._clock
        now = time.perf_counter()
        if tokens:
            self._metrics["train"]["tokens_per_second"].append((self._total_train_tokens - tokens) / (now - before))
        self._clock = (now, self._total_train_tokens)

    def _log_acceptance(self, rows: Tensor, choices: Tensor, targets: Tensor) -> None:
        """`choices` and `targets` [M, guesses+1] with the main stream's in column 0, `rows` [M] their sequence."""
        counts = [chain_acceptance(choices[rows == b], targets[rows == b]) for b in rows.unique()]
        if not counts:
            return
        accepted = torch.stack([a for a, _ in counts]).sum(0)
        possible = torch.stack([p for _, p in counts]).sum(0)
        shares = (accepted / possible.clamp(min=1)).tolist()
        for depth, share in enumerate(shares, start=1):
            self._metrics["eval"][f"acceptance_{depth}"].append(share)
        self._metrics["eval"]["chain_tokens_per_call"].append(1 + sum(shares))

    def _per_token(self, total: Tensor, own: Tensor | int, num_items: Tensor | int | None) -> Tensor:
        """The sum `total` over `own` tokens -> its mean over those of all micro-batches and ranks, as TRL does."""
        tokens = own if num_items is None else num_items
        scaled = total / torch.as_tensor(tokens, device=total.device).clamp(min=1)
        if num_items is None or not self.args.average_tokens_across_devices:
            return scaled
        # DDP averages gradients over ranks while `num_items` counts the tokens of all of them.
        return scaled * self.accelerator.num_processes
