"""Which operation gives a row other bits when other rows stand beside it?

In bfloat16 a row's text is its own as long as every operation gives it the same bits in a plain pass, of one row and
one node, and in one that verifies a tree, with streams and with a neighbour. Both passes are run here, and what every
module puts out for the row is compared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree

NODES = 7
"""Nodes of the wider pass's tree."""


@torch.inference_mode()
def first_operation(adapted: Any, prompt: list[int], neighbour: list[int]) -> str | None:
    """The first module, in the order of calls, whose output for the last token of `prompt` depends on what is beside
    it; None if none does. Both prompts have two tokens or more."""
    name = adapted.active_adapter
    with adapted.bank.in_use([name]) as held, adapted.turn:
        own = held[name]

        def outputs(prompts: list[list[int]], nodes: int, drafter: Any) -> list[tuple[str, Tensor]]:
            rows = []
            for ids in prompts:
                tree = DraftTree([*ids[-1:], *ids[: nodes - 1]], [*range(-1, nodes - 1)], [*range(nodes)])
                rows.append(Row(Request(ids[:-1], nodes, drafter, own.tree, own.lora), nodes, tree))
            with _noted(adapted.hooks.backbone) as prompt_pass:
                _, cache = adapted.step.prompts(rows)
            sources = [[*range(min(nodes, 2))] if drafter is not None else []] * len(rows)
            with _noted(adapted.hooks.backbone) as tree_pass:
                adapted.step.logits(rows, adapted.step.trees(rows, sources, cache).main)
            last = len(prompts[0]) - 2
            before = [(f"{module} (prompt)", out[0, last]) for module, out in prompt_pass]
            return before + [(module, out[0, 0]) for module, out in tree_pass]

        alone = outputs([prompt], 1, None)
        beside = outputs([prompt, neighbour], min(NODES, len(prompt), len(neighbour)), own.drafter)
    pairs = zip(alone, beside, strict=True)
    return next((module for (module, a), (_, b) in pairs if not torch.equal(a, b)), None)


@contextmanager
def _noted(backbone: Any) -> Iterator[list[tuple[str, Tensor]]]:
    """Inside, what every module of the layers and the head put out [B, R, ..] is noted, in the order of calls."""
    found: list[tuple[str, Tensor]] = []

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
