"""Do two ways of decoding give the same tokens, and where they do not, how close was the decision?"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch

from ssft.bench.result import Difference


def first_difference(expected: Sequence[int], got: Sequence[int]) -> int | None:
    """0-based place of the first difference; the shorter length if one is the other's beginning; None if equal."""
    # One output may end before the other; that is judged below.
    for place, (left, right) in enumerate(zip(expected, got, strict=False)):
        if left != right:
            return place
    return None if len(expected) == len(got) else min(len(expected), len(got))


def compare_outputs(expected: Sequence[Sequence[int] | None], got: Sequence[Sequence[int] | None]) -> list[Difference]:
    """Differences of two lists of outputs, one entry per prompt that differs, without margins.

    A missing output, None or beyond the end of its list, differs from everything, from another missing one too: it
    stands as one that ended before its first token.
    """
    differences = []
    for row, (left, right) in enumerate(zip_longest(expected, got)):
        missing = left is None or right is None
        left, right = left or [], right or []
        place = 0 if missing else first_difference(left, right)
        if place is not None:
            tokens = [output[place] if place < len(output) else None for output in (left, right)]
            differences.append(Difference(row, place, *tokens))
    return differences


@torch.inference_mode()
def top_margin(backbone: Any, ids: list[int]) -> float:
    """Lead of the best over the second-best next token after `ids`, in logits: one plain forward, no cache.

    backbone: a `Backbone`; a LoRA counts where the caller has put one in force.
    """
    inputs = torch.tensor([ids], device=backbone.model.device)
    hidden = backbone.decoder(input_ids=inputs, use_cache=False).last_hidden_state
    best = backbone.logits(hidden[:, -1]).float().topk(2).values[0]
    return float(best[0] - best[1])


def add_margins(
    adapted: Any,
    prompts: Sequence[list[int]],
    expected: Sequence[list[int] | None],
    differences: Iterable[Difference],
) -> None:
    """Fill in the margins of `compare_outputs`, where the reference has not ended: one plain forward each, after the
    prompt and the common beginning."""
    for difference in differences:
        if difference.expected is not None:
            common = (expected[difference.row] or [])[: difference.position]
            with adapted.applied():
                difference.margin = top_margin(adapted.hooks.backbone, [*prompts[difference.row], *common])
