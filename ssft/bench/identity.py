"""Do two ways of decoding give the same tokens, and where they do not, how close was the decision?"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch

from ssft.results.schema import Difference


def compare_outputs(expected: Sequence[Sequence[int]], got: Sequence[Sequence[int]]) -> list[Difference]:
    """The first difference of each prompt whose two outputs differ, without margins; an output that ends before the
    other differs there."""
    differences = []
    for row, pair in enumerate(zip(expected, got, strict=True)):
        places = enumerate(zip_longest(*pair))
        if (found := next(((place, *tokens) for place, tokens in places if tokens[0] != tokens[1]), None)) is not None:
            differences.append(Difference(row, *found))
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
    adapted: Any, prompts: Sequence[list[int]], expected: Sequence[list[int]], differences: Iterable[Difference]
) -> None:
    """Fill in the margins of `compare_outputs`, where the reference has not ended: one plain forward each, after the
    prompt and the common beginning."""
    for difference in differences:
        if difference.expected is not None:
            common = expected[difference.row][: difference.position]
            with adapted.applied():
                difference.margin = top_margin(adapted.hooks.backbone, [*prompts[difference.row], *common])
