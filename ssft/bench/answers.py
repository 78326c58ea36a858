"""Rows as token ids that a model has room to answer, and the hash that a result names its adapter by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssft.errors import DataError

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


def encode_rows(adapted: MultiAdapterModel, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Token ids of each row's prompt; raises `DataError` for one that leaves the answer no room."""
    prompts = [adapted.encode(row) for row in rows]
    check_prompts(prompts, adapted.hooks.backbone.context_length)
    return prompts


def check_prompts(prompts: Sequence[list[int]], context: int) -> None:
    """Raise `DataError` for a prompt that leaves the answer no room in `context` tokens."""
    for number, prompt in enumerate(prompts, start=1):
        if not 0 < len(prompt) < context:
            raise DataError(
                f"row {number}: the prompt has {len(prompt)} tokens; it needs at least one and fewer than the model's "
                f"context of {context}; shorten or remove the row"
            )


def weights_sha256(adapted: MultiAdapterModel) -> str:
    """`Bundle.weights_sha256` of the adapter; empty for the bare base."""
    return "" if adapted.active.bundle is None else adapted.active.bundle.weights_sha256
