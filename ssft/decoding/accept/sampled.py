"""Verification where tokens are drawn, or steered by processors or a grammar: each node sees its own path.

At a node the main stream's processed distribution gives the token; the walk goes on if a child carries it. The random
number behind a token depends on the request's seed and on the token's position alone, so that drafts change nothing
but the number of passes, and the distribution is the main stream's own.

The walks of all rows advance together, one level of the trees at a time: nodes that no walk reaches cost nothing, and
rows of one setting share a call.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ssft.decoding.accept.constrained import forbid
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.errors import GenerationError


def accept_sampled(rows: Mapping[int, Row], logits: Tensor) -> dict[int, tuple[list[int], int]]:
    """Of every row: the accepted path of its tree, and the token issued after it; nothing is walked beyond an end.

    rows: number in the batch -> row. logits [B, n, V] are the main stream's at the nodes.
    """
    paths = {b: [0] for b in rows}
    children = {b: row.tree.children() for b, row in rows.items()}
    found: dict[int, tuple[list[int], int]] = {}
    while walking := [b for b in rows if b not in found]:
        scores = logits[walking, [paths[b][-1] for b in walking]].float()
        for i, b in enumerate(walking):
            if rows[b].request.processors:
                scores[i : i + 1] = _processed(rows[b], paths[b], scores[i : i + 1])
        forbid(scores, [rows[b] for b in walking], [paths[b] for b in walking])
        requests = [rows[b].request for b in walking]
        positions = [len(rows[b].history) + len(paths[b]) - 1 for b in walking]
        for b, token in zip(walking, _choose(requests, positions, scores), strict=True):
            child = children[b].get(paths[b][-1], {}).get(token)
            if child is None or token in rows[b].request.ends:
                found[b] = paths[b], token
            else:
                paths[b].append(child)
    return found


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) behind the token at `position` of a sequence, by the counter-based generator Philox."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def draw(scores: Tensor, numbers: Sequence[float]) -> list[int]:
    """The token of each row of scores [k, V] at its number in [0, 1): the first whose cumulative probability is above.

    Raises:
        GenerationError: a row has no token that may come.
    """
    if scores.device.type == "mps":  # has no float64
        scores = scores.cpu()
    mass = scores.double().softmax(dim=-1).cumsum(dim=-1)
    total = mass[:, -1:].contiguous()
    _check_possible(~total.isfinite().all())
    wanted = torch.tensor(numbers, dtype=mass.dtype, device=mass.device).unsqueeze(1) * total
    # A product that rounds up to the total would lead past the last token that may come.
    last = torch.searchsorted(mass, total)
    tokens: list[int] = torch.searchsorted(mass, wanted, right=True).minimum(last).squeeze(1).tolist()
    return tokens


def _check_possible(impossible: Tensor) -> None:
    """Raise `GenerationError` where all that the model knows is forbidden at once."""
    if bool(impossible):
        raise GenerationError(
            "no token is left that may come next: bad_words_ids, no_repeat_ngram_size, min_new_tokens, a logits "
            "processor or a grammar forbids them all; relax one of them"
        )


def _choose(requests: Sequence[Request], positions: Sequence[int], scores: Tensor) -> list[int]:
    """The token of each request at scores [k, V]: drawn where it has a seed, else the likeliest."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        if request.warpers:
            groups.setdefault(tuple(map(id, request.warpers)), []).append(i)
    for places in groups.values():
        warped = scores if len(places) == len(requests) else scores[places]
        for warper in requests[places[0]].warpers:
            warped = warper(_NO_IDS, warped)
        scores[places] = warped
    drawn = [i for i, request in enumerate(requests) if request.seed is not None]
    tokens = [0] * len(requests)
    if len(drawn) < len(requests):
        best, likeliest = scores.max(dim=-1)
        _check_possible(best.isneginf().any())
        tokens = likeliest.tolist()
    if drawn:
        numbers = [uniform(seed, positions[i]) for i in drawn if (seed := requests[i].seed) is not None]
        for i, token in zip(drawn, draw(scores[drawn], numbers), strict=True):
            tokens[i] = token
    return tokens


_NO_IDS = torch.empty(0, 0, dtype=torch.long)
"""What warpers get in place of the tokens so far, which they do not look at."""


def _processed(row: Row, path: list[int], scores: Tensor) -> Tensor:
    """Scores [1, V] at the end of a path after the row's processors, with that path as history."""
    ids = torch.tensor([row.history + [row.tree.tokens[node] for node in path[1:]]], device=scores.device)
    for processor in row.request.processors:
        scores = processor(ids, scores)
    return scores
