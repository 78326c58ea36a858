"""Rows as token ids that a model has room to answer, and the hash that a result names its adapter by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssft.errors import DataError

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


def encode_rows(adapted: MultiAdapterModel, rows: Sequence[dict[str, Any]], whose: str = "") -> list[list[int]]:
    """`encode_row` of each row; `whose` opens the message of an error."""
    return [encode_row(adapted, row, f"{whose}row {number}") for number, row in enumerate(rows, start=1)]


def encode_row(adapted: MultiAdapterModel, row: dict[str, Any], where: str) -> list[int]:
    """Token ids of the row's prompt; raises `DataError`, opening with `where`, if it leaves the answer no room."""
    prompt, context = adapted.encode(row), adapted.hooks.backbone.context_length
    if not 0 < len(prompt) < context:
        raise DataError(
            f"{where}: the prompt has {len(prompt)} tokens; it needs at least one and fewer than the model's context "
            f"of {context}; shorten or remove the row"
        )
    return prompt


def weights_sha256(adapted: MultiAdapterModel) -> str:
    """`Bundle.weights_sha256` of the adapter; empty for the bare base."""
    return "" if adapted.active.bundle is None else adapted.active.bundle.weights_sha256
