"""The head's rows of an adapter's draft vocabulary, with what the adapter's own LoRA of the head adds to them."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssft.base.head import HeadColumns, HeadRows, gives_rows, head_rows
from ssft.bundle.fit import linear_of
from ssft.decoding.draft.vocabulary import DraftVocabulary
from ssft.lora.weights import LoraLayer

_log = logging.getLogger(__name__)


def draft_vocabulary(model: Any, ids: Tensor | None, layers: Mapping[str, LoraLayer]) -> DraftVocabulary | None:
    """The rows of the head of `model` for the token ids `ids` [v]; `layers`: the adapter's LoRA by the modules' names.

    None where there are no ids. Where rows cannot be taken out of the head (4-bit, or offloaded) all of it is computed
    for every draft, which a warning says.
    """
    if ids is None:
        return None
    name = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    head, lora = linear_of(model, name), layers.get(name)
    if not gives_rows(head):
        state = "offloaded" if head.weight.is_meta else f"stored as {head.weight.dtype}"
        _log.warning("the base's %s is %s; all of it is computed for every draft, which is slower", name, state)
        return DraftVocabulary(ids, partial(HeadColumns, model.get_output_embeddings()))

    @torch.no_grad()
    def gather(ids: Tensor) -> HeadRows:
        added = None
        if lora is not None:
            added = lora.up[ids.to(lora.up.device)].float() @ lora.down.float() * lora.scaling
        return head_rows(head, ids, added)

    return DraftVocabulary(ids, gather)
