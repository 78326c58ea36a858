"""Which operation gives a row other bits when other rows stand beside it?

In bfloat16 a row's text is its own as long as every operation gives it the same bits in a plain pass, of one row and
one node, and in one that verifies a tree, with streams and with a neighbour. Both passes are run here, and what every
module puts out for the row is compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree

NODES = 7
"""Nodes of the wider pass's tree."""

Noted = list[tuple[str, Tensor]]
"""A module's name and what it put out for one row of a pass."""


@torch.inference_mode()
def first_operation(adapted: Any, prompt: list[int], neighbour: list[int]) -> str | None:
    """The first module, in the order of calls, whose output for the last token of `prompt` depends on what is beside
    it; None if none does. Both prompts have three tokens or more.

    Last of all the token stands on a side branch, where its slot in the cache is not right behind its parent's: there
    attention adds the same terms in another order.
    """
    name = adapted.active_adapter
    with adapted.bank.in_use([name]) as held, adapted.turn:
        own = held[name]

        def outputs(prompts: list[list[int]], tree: Callable[[list[int]], DraftTree], node: int, drafter: Any) -> Noted:
            rows = []
            for ids in prompts:
                drafted = tree(ids)
                cut = ids[: -1 - drafted.depths[node]]
                rows.append(Row(Request(cut, len(drafted), drafter, own.tree, own.lora), len(drafted), drafted))
            with _noted(adapted.hooks.backbone) as prompt_pass:
                _, cache = adapted.step.prompts(rows)
            sources = [[*range(min(len(rows[0].tree), 2))] if drafter is not None else []] * len(rows)
            with _noted(adapted.hooks.backbone) as tree_pass:
                adapted.step.logits(rows, adapted.step.trees(rows, sources, cache).main)
            last = len(prompts[0]) - 3  # of the prompt of every pass that is made here
            return [(f"{at} (prompt)", out[0, last]) for at, out in prompt_pass] + [
                (at, out[0, node]) for at, out in tree_pass
            ]

        alone = outputs([prompt], lambda ids: DraftTree(ids[-1:]), 0, None)
        beside = outputs([prompt, neighbour], _chain, 0, own.drafter)
        branch = outputs([prompt], _side_branch, 2, None)
    for others, where in ((beside, ""), (branch, " (on a side branch of the tree)")):
        pairs = zip(alone, others, strict=True)
        if (found := next((at for (at, a), (_, b) in pairs if not torch.equal(a, b)), None)) is not None:
            return found + where
    return None


def _chain(ids: list[int]) -> DraftTree:
    """The last token, and a few that may follow."""
    nodes = min(NODES, len(ids))
    return DraftTree([ids[-1], *ids[: nodes - 1]], [*range(-1, nodes - 1)], [*range(nodes)])


def _side_branch(ids: list[int]) -> DraftTree:
    """The last token as the second child of the one before it."""
    return DraftTree([ids[-2], ids[0], ids[-1]], [-1, 0, 0], [0, 1, 1])


@contextmanager
def _noted(backbone: Any) -> Iterator[Noted]:
    """Inside, what every module of the layers and the head put out [B, R, ..] is noted, in the order of calls."""
    found: Noted = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, Tensor) and output.ndim == 3:
                found.append((name, output.clone()))

        return hook

    inside = {backbone.head, *backbone.layers.modules()} - {backbone.layers}
    named = [(name, module) for name, module in backbone.model.named_modules() if module in inside]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
