"""How many tokens a pass yields with the streams as they are: some validation rows are decoded between two steps."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ssft.base.head import head_over
from ssft.base.load import eos_token_ids
from ssft.decoding.config import FIXED, TreeConfig
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.draft.vocabulary import DraftVocabulary
from ssft.decoding.request import Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.errors import ConfigError
from ssft.training.loss import IGNORE

MEASURED = "tokens_per_call"
"""The key of a measurement in the trainer's history."""
NEW_TOKENS = 64
"""Tokens that a row is decoded for, at most."""


class MeasureStreams(TrainerCallback):
    """Decodes `measure_rows` validation rows every `measure_steps` steps and at the end, each as if it were alone, with
    the adapter's own tree; ends the run where `stop_at_tokens_per_call` is reached.

    It decodes in the model's own type, without autocast. A measurement stands in the trainer's history as
    `tokens_per_call`. No random number is drawn, so that a run is the same with and without measurements.
    """

    def __init__(self, trainer: Any, tree: TreeConfig) -> None:
        """`trainer`: a `StreamSFTTrainer`, whole but for this callback.

        Raises:
            ConfigError: there is a target that nothing could ever tell to be reached.
        """
        self.trainer = trainer
        # All nodes that it may have: what the streams have learned must not depend on what passes cost here.
        self.tree = replace(tree, max_nodes=tree.nodes_in_batch(1), max_batch_nodes=0, budget=FIXED)
        self.target: float | None = trainer.args.stop_at_tokens_per_call
        context = trainer.hooks.backbone.context_length
        found = (prompt for prompt in _prompts(trainer.eval_dataset) if 0 < len(prompt) < context)
        self.prompts = list(islice(found, trainer.args.measure_rows)) if trainer.args.measure_steps else []
        if self.target is None:
            return
        what = f"training.stop_at_tokens_per_call={self.target:g}"
        if not self.prompts:
            raise ConfigError(
                f"{what}: no validation row is decoded to see it; set data.validation, and training.measure_steps and "
                "training.measure_rows to 1 or more"
            )
        depth = min(tree.max_depth or trainer.num_guesses, trainer.num_guesses, tree.max_nodes - 1)
        if self.target > depth + 1:
            raise ConfigError(
                f"{what}: drafts are {depth} tokens deep, so that a pass yields {depth + 1} tokens at most; lower it, "
                "or raise training.num_streams, tree.max_nodes or tree.max_depth"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.prompts or state.global_step % args.measure_steps:
            return
        if self._measure(state) >= (self.target or float("inf")):
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A run that was stopped, or whose last step was measured, has its number.
        if self.prompts and state.global_step % args.measure_steps:
            self._measure(state)

    def _measure(self, state: Any) -> float:
        """Tokens per pass over all prompts, the prompts' passes included; noted in the history."""
        tokens, calls = decode_some(self.trainer, self.prompts, self.tree)
        # Every process decodes the same rows; only what all have together is the same number in each of them.
        both = torch.tensor([tokens, calls], device=self.trainer.accelerator.device)
        tokens, calls = self.trainer.accelerator.reduce(both, reduction="sum").tolist()
        entry = {MEASURED: tokens / calls, "step": state.global_step}
        state.log_history.append(entry if state.epoch is None else {**entry, "epoch": state.epoch})
        return tokens / calls


def decode_some(trainer: Any, prompts: list[list[int]], tree: TreeConfig) -> tuple[int, int]:
    """(tokens, passes) of greedy decoding with the streams that `trainer` trains; the model is left as it was."""
    eos = frozenset(eos_token_ids(trainer.hooks.backbone.model, trainer.processing_class))
    vocabulary: Tensor | None = trainer.vocabulary
    head = partial(head_over, trainer.hooks.backbone.head)
    drafter = StreamDrafter(trainer.streams, None if vocabulary is None else DraftVocabulary(vocabulary, head))
    requests = [Request(prompt, NEW_TOKENS, drafter, tree, eos_token_ids=eos) for prompt in prompts]
    training = trainer.model.training
    trainer.model.eval()
    if trainer.gate is not None:
        trainer.gate.plan = None  # that of the last step; passes bring their own
    try:
        results = list(Scheduler(Step(trainer.hooks)).decode(requests))[-1]
    finally:
        trainer.model.train(training)
    return sum(len(result.token_ids) for result in results), sum(result.calls for result in results)


def _prompts(dataset: Any) -> Iterable[list[int]]:
    """The token ids before the first that carries loss, of every row of a data set that TRL has prepared."""
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    for row in dataset or ():
        labels = row["labels"]
        yield row["input_ids"][: next((place for place, label in enumerate(labels) if label != IGNORE), 0)]
