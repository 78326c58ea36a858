"""The draft vocabulary of a task: the token ids that its rows use, those of completions before those of prompts.

    draft vocabulary     what the rows of a run use most, kept with the adapter
    a row decodes with   that, and the token ids of its own prompt
    a batch trains with  that, and all token ids of the batch, so that every target is among them

Streams guess tokens of the answer, so those that completions hold most often come first. What is left of the size goes
to the tokens of prompts by frequency, since answers copy from them. Special tokens are always in, the end of the
sequence among them.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssft.base.backbone import Backbone
from ssft.base.head import head_over
from ssft.base.load import eos_token_ids
from ssft.training.loss import IGNORE, Candidates

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


def vocabulary_of_run(trainer: Any) -> Tensor | None:
    """The draft vocabulary [v] that a `StreamSFTTrainer` learns of its training rows; None for all of the base's.

    That is where `draft_vocabulary` is 0, or at least as large as the base's vocabulary.
    """
    size, base = trainer.args.draft_vocabulary, trainer.hooks.backbone.model
    vocab_size = base.config.vocab_size
    if not 0 < size < vocab_size:
        return None
    always = special_tokens(base, trainer.processing_class)
    return learn_vocabulary(map(_sides, trainer.train_dataset), always, size, vocab_size)


def candidates_of(vocabulary: Tensor | None, token_ids: Tensor, backbone: Backbone) -> Candidates | None:
    """What streams guess from in a batch of `token_ids` [B, T]; None for all that the base has."""
    if vocabulary is None:
        return None
    ids = torch.cat((vocabulary.to(token_ids.device), token_ids.flatten())).unique()
    return Candidates(ids, partial(backbone.logits, head=head_over(backbone.head, ids)))


def _sides(example: dict[str, Any]) -> TokenIds:
    """Prompt and completion of a row as TRL tokenised it."""
    ids, trained = np.asarray(example["input_ids"]), np.asarray(example["labels"]) != IGNORE
    return ids[~trained].tolist(), ids[trained].tolist()
