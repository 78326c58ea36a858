"""The draft vocabulary of a task: the token ids that its rows use, those of completions before those of prompts.

Streams guess tokens of the answer, so those that completions hold most often come first. What is left of the size goes
to the tokens of prompts by frequency, since answers copy from them. Special tokens are always in, the end of the
sequence among them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssft.base.load import eos_token_ids
from ssft.training.loss import IGNORE

TokenIds = tuple[Sequence[int], Sequence[int]]
"""Token ids of a row's prompt, and of its completion."""


def learn_vocabulary(rows: Iterable[TokenIds], always: Iterable[int], size: int, vocab_size: int) -> Tensor:
    """The `size` token ids [v] that serve `rows` best, sorted; fewer where the rows use fewer.

    `always`: token ids that are in whatever the rows say, be they more than `size`. `vocab_size`: of the base.
    """
    counts = np.zeros((2, vocab_size), dtype=np.int64)
    for row in rows:
        for side, ids in zip(counts, row, strict=True):
            np.add.at(side, np.asarray(ids, dtype=np.int64), 1)
    prompts, completions = counts
    chosen = {int(token) for token in always if 0 <= token < vocab_size}
    # By completions, then by prompts, then by id: the last key of lexsort counts first.
    for token in np.lexsort((np.arange(vocab_size), -prompts, -completions)):
        if len(chosen) >= size or not counts[:, token].any():
            break
        chosen.add(int(token))
    return torch.tensor(sorted(chosen))


def special_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that no task does without: the tokenizer's special ones, and those that end a text of `model`."""
    return {*tokenizer.all_special_ids, *eos_token_ids(model, tokenizer)}


def vocabulary_of_run(trainer: Any, tokenizer: Any) -> Tensor | None:
    """The draft vocabulary [v] that a `StreamSFTTrainer` learns of its training rows; None for all of the base's.

    That is where `draft_vocabulary` is 0, or at least as large as the base's vocabulary.
    """
    size, base = trainer.args.draft_vocabulary, trainer.hooks.backbone.model
    vocab_size = base.config.vocab_size
    if not 0 < size < vocab_size:
        return None
    return learn_vocabulary(map(_sides, trainer.train_dataset), special_tokens(base, tokenizer), size, vocab_size)


def _sides(example: dict[str, Any]) -> TokenIds:
    """Prompt and completion of a row as TRL tokenised it."""
    ids, trained = np.asarray(example["input_ids"]), np.asarray(example["labels"]) != IGNORE
    return ids[~trained].tolist(), ids[trained].tolist()
