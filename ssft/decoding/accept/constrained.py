"""Tokens that a grammar forbids are taken out of the choice, at each node by the path to it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssft.decoding.grammar.parser import GRAMMAR
from ssft.decoding.row import Row


def forbid(scores: Tensor, rows: Sequence[Row], paths: Sequence[list[int]]) -> None:
    """Set scores [k, V] at the ends of the paths in the rows' trees to -inf where a row's grammar forbids a token."""
    parsers = {i: row.parser for i, row in enumerate(rows) if row.parser is not None}
    if not parsers:
        return
    masks = [parser.mask([rows[i].tree.tokens[node] for node in paths[i][1:]]) for i, parser in parsers.items()]
    with next(iter(parsers.values())).timed(GRAMMAR):
        places, width = list(parsers), scores.shape[1]
        # Rows may be of several tokenizers' sizes only where a mask ends before the model's vocabulary does.
        bits = np.zeros((len(masks), max(map(len, masks))), dtype=np.uint8)
        for k, mask in enumerate(masks):
            bits[k, : len(mask)] = mask
        allowed = _unpacked(torch.from_numpy(bits).to(scores.device))[:, :width]
        scores[places, allowed.shape[1] :] = -torch.inf
        scores[places, : allowed.shape[1]] = scores[places, : allowed.shape[1]].masked_fill(~allowed, -torch.inf)


def _unpacked(bits: Tensor) -> Tensor:
    """uint8 [k, n], the lowest bit first -> bool [k, 8n]."""
    powers = torch.tensor([1 << place for place in range(8)], dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(-1) & powers).bool().flatten(1)
