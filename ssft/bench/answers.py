"""What an adapter answers to rows: their prompts as token ids, and completions decoded in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ssft.errors import DataError
from ssft.runtime.batching import length_batches

if TYPE_CHECKING:
    from ssft.decoding.request import Generation
    from ssft.runtime.loader import AdaptedModel


def run_in_batches(
    prompts: Sequence[list[int]],
    batch_size: int,
    run: Callable[[list[list[int]]], Sequence[Generation]],
    progress: bool = False,
) -> list[Generation]:
    """What `run` gives for batches of prompts of like length, in the prompts' order."""
    results: dict[int, Generation] = {}
    with tqdm(total=len(prompts), unit="prompt", delay=2, disable=None if progress else True, leave=False) as bar:
        for batch in length_batches([len(prompt) for prompt in prompts], batch_size):
            results.update(zip(batch, run([prompts[index] for index in batch]), strict=True))
            bar.update(len(batch))
    return [results[index] for index in range(len(prompts))]


def encode_rows(adapted: AdaptedModel, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
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


def decode_prompts(
    adapted: AdaptedModel,
    prompts: Sequence[list[int]],
    streaming: bool,
    max_new_tokens: int,
    batch_size: int,
    progress: bool = True,
) -> list[Generation]:
    """Completions in the prompts' order; prompts of like length are decoded together."""
    decoder = adapted.decoder(streaming=streaming, tree=adapted.tree)

    def run(batch: list[list[int]]) -> list[Generation]:
        return decoder.generate(batch, max_new_tokens, adapted.eos_token_ids)

    return run_in_batches(prompts, batch_size, run, progress)


def weights_sha256(adapted: AdaptedModel) -> str:
    """`Bundle.weights_sha256` of the adapter; empty for the bare base."""
    return "" if adapted.bundle is None else adapted.bundle.weights_sha256
