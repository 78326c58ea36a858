"""What an adapter answers to rows: their prompts as token ids, and completions decoded in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssft.errors import DataError
from ssft.runtime.batching import length_batches

if TYPE_CHECKING:
    from ssft.decoding.request import Generation
    from ssft.runtime.loader import AdaptedModel


def encode_rows(adapted: AdaptedModel, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Token ids of each row's prompt; raises `DataError` for one that leaves the answer no room."""
    prompts = [adapted.encode(row) for row in rows]
    context = adapted.hooks.backbone.context_length
    for number, prompt in enumerate(prompts, start=1):
        if not 0 < len(prompt) < context:
            raise DataError(
                f"row {number}: the prompt has {len(prompt)} tokens; it needs at least one and fewer than the model's "
                f"context of {context}; shorten or remove the row"
            )
    return prompts


def decode_prompts(
    adapted: AdaptedModel,
    prompts: Sequence[list[int]],
    streaming: bool,
    max_new_tokens: int,
    batch_size: int,
    progress: bool = True,
) -> list[Generation]:
    """Completions in the prompts' order; prompts of like length are decoded together."""
    from tqdm import tqdm

    decoder = adapted.decoder(streaming=streaming, tree=adapted.tree)
    results: dict[int, Generation] = {}
    with tqdm(total=len(prompts), unit="prompt", delay=2, disable=None if progress else True, leave=False) as bar:
        for batch in length_batches([len(prompt) for prompt in prompts], batch_size):
            done = decoder.generate([prompts[index] for index in batch], max_new_tokens, adapted.eos_token_ids)
            results.update(zip(batch, done, strict=True))
            bar.update(len(batch))
    return [results[index] for index in range(len(prompts))]


def weights_sha256(adapted: AdaptedModel) -> str:
    """`Bundle.weights_sha256` of the adapter; empty for the bare base."""
    return "" if adapted.bundle is None else adapted.bundle.weights_sha256
