"""Multi-stream attention as an attention implementation of transformers, registered under the name `ssft`.

    main    M_t^{k+1}    = MHA(M_t^k, M_{≤t}^k)                       never attends to a stream
    stream  S_{tj}^{k+1} = MHA(S_{tj}^k, M_{≤t}^k ⊕ S_{t(≤j)}^k)      (paper §3.2.1)

In training, layers without streams run transformers' own SDPA function unchanged. A decoding pass has a dense mask, and
torch's attention is called with it (`_decode`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from ssft.streams.passes import current_pass
from ssft.streams.plan import StreamPlan

IMPLEMENTATION = "ssft"

GROUPED_ROWS = 32
"""Rows of a decoding pass up to which query heads that share a key head are put together."""

CHUNK_SCORES = 2**24
"""Scores of stream rows with main rows in memory at a time while training; more are computed again in backward."""


def stream_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    stream_plan: StreamPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, R(+S·γ), D], key/value [B, H_kv, K, D] -> output [B, R(+S·γ), H, D], contiguous as models expect."""
    dense = stream_plan is None or bool(stream_plan.masks)
    if attention_mask is not None and dense and not torch.is_grad_enabled():
        found = _decode(query, key, value, attention_mask, scaling, softcap, stream_plan)
        return found.transpose(1, 2).contiguous(), None
    if stream_plan is None:
        return _main(module, query, key, value, attention_mask, dropout, scaling, softcap, **kwargs), None
    rows = stream_plan.num_main
    value = stream_plan.with_rotated_values(value)
    own = (query[:, :, :rows], key[:, :, :rows], value[:, :, :rows])
    if stream_plan.frozen_main:
        own = (own[0].detach(), own[1].detach(), own[2].detach())
    main = _main(module, *own, attention_mask, dropout, scaling, softcap, **kwargs)
    streams = _attend_in_chunks(stream_plan, query, key, value, attention_mask, dropout, scaling, softcap)
    return torch.cat((main, streams.transpose(1, 2)), dim=1), None


def _main(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
    **kwargs: Any,
) -> Tensor:
    """Rows among themselves: [B, H, R, D], [B, H_kv, K, D] twice -> [B, R, H, D]; transformers' own SDPA function."""
    if softcap is None:
        given = {"dropout": dropout, "scaling": scaling, **kwargs}
        return sdpa_attention_forward(module, query, key, value, mask, **given)[0]
    if mask is None:
        rows, keys = query.shape[2], key.shape[2]
        mask = torch.ones(rows, keys, dtype=torch.bool, device=query.device).tril(keys - rows)
    return _capped(query, key, value, mask, scaling, softcap, dropout).transpose(1, 2).contiguous()


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float,
    dropout: float = 0.0,
) -> Tensor:
    """Attention whose scores are held between ±softcap (Gemma 2), which no fused kernel does; mask bool or additive."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    least = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, dropout) @ value


def _decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    plan: StreamPlan | None,
) -> Tensor:
    """A pass with a dense mask [B, 1, n(+m·g), K] -> [B, H, n(+m·g), D].

    Main rows see all K slots in the shape that gives them their bits (ssft/base/kernels/shapes.py); stream rows only
    draft, and see the slots that are in use.
    """
    if plan is None:
        return _attend(query, key, value, mask, slice(None), scaling, softcap)
    rows, used = plan.num_main, slice(0, plan.used)
    main = _attend(query[:, :, :rows], key, value, mask, slice(rows), scaling, softcap)
    value = plan.with_rotated_values(value)[:, :, used]
    streams = _attend(query[:, :, rows:], key[:, :, used], value, mask, slice(rows, query.shape[2]), scaling, softcap)
    return torch.cat((main, streams), dim=2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    rows: slice,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """query [B, H, R, D], key/value [B, H_kv, K, D] -> [B, H, R, D]; `rows` are theirs of mask [B, 1, ., K or more]."""
    heads, groups, keys = query.shape[1], query.shape[1] // key.shape[1], key.shape[2]
    if softcap is not None:
        return _capped(query, key, value, mask[:, :, rows, :keys], scaling, softcap)
    if groups > 1 and 1 < query.shape[2] <= GROUPED_ROWS:
        # The query heads that share a key head as rows of one: fewer and larger products.
        query = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
        seen = _repeated(mask, rows, keys, groups)
        output = F.scaled_dot_product_attention(query, key, value, seen, scale=scaling)
        # On a GPU the output lies in memory row by row, not head by head.
        return output.reshape(output.shape[0], heads, -1, output.shape[3])
    # transformers' function would copy keys and values for every query head of a group.
    seen = mask[:, :, rows, :keys]
    return F.scaled_dot_product_attention(query, key, value, seen, scale=scaling, enable_gqa=groups > 1)


def _repeated(mask: Tensor, rows: slice, keys: int, groups: int) -> Tensor:
    """These rows and keys of a mask, once for every head of a group; layers of a pass that share a mask share this."""
    now = current_pass()
    held = {} if now is None else now.repeated
    key = (id(mask), rows.start, keys)
    if key not in held:
        # The mask is kept beside it, so that no other can get its identity.
        held[key] = (mask, mask[:, :, rows, :keys].repeat(1, 1, groups, 1))
    return held[key][1]


def sources_per_chunk(scores: int) -> int:
    """How many sources are attended at a time, of which each has so many scores with main rows: B·H·γ·R."""
    return max(1, CHUNK_SCORES // max(scores, 1))


def _attend_in_chunks(
    plan: StreamPlan,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Stream rows of training: query [B, H, R + S·γ, D], key/value [B, H_kv, R + S·γ, D] -> [B, H, S·γ, D].

    With more than one chunk each is computed again in backward, so that memory grows linearly with the completion.
    """
    rows, gamma = plan.num_main, plan.num_streams
    per_chunk = sources_per_chunk(query.shape[0] * query.shape[1] * gamma * rows)
    total = plan.sources.shape[1]

    def attend(query: Tensor, key: Tensor, value: Tensor, begin: int, end: int) -> Tensor:
        part = slice(rows + begin * gamma, rows + end * gamma)
        seen = _seen(plan.sources[:, begin:end], rows, mask)
        main, own = (key[:, :, :rows], value[:, :, :rows]), (key[:, :, part], value[:, :, part])
        return _attend_beside(query[:, :, part], main, own, seen, dropout, scaling, softcap)

    if total <= per_chunk:
        return attend(query, key, value, 0, total)
    outputs = [
        checkpoint(attend, query, key, value, begin, min(begin + per_chunk, total), use_reentrant=False)
        for begin in range(0, total, per_chunk)
    ]
    return torch.cat(outputs, dim=2)


def _attend_beside(
    query: Tensor,
    main: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    seen: Tensor,
    dropout: float,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Streams of C sources: each sees main rows, and those of its own source up to itself; [B, H, C·γ, D] -> the same.

    One softmax runs over both, R + γ scores a row. A mask over all C·γ streams would be nearly empty, and a fused
    kernel would compute what it hides.

    Args:
        query: [B, H, C·γ, D].
        main: keys and values [B, H_kv, R, D] of the main rows.
        own: keys and values [B, H_kv, C·γ, D] of the streams.
        seen: bool [B, C, R], the main rows that a source sees.
    """
    heads, count, rows = main[0].shape[1], seen.shape[1], seen.shape[2]
    gamma = query.shape[2] // count
    query = query * (query.shape[3] ** -0.5 if scaling is None else scaling)
    query = query.unflatten(1, (heads, -1)).unflatten(3, (count, gamma))  # [B, H_kv, G, C, γ, D]
    key, value = (tensor.unflatten(2, (count, gamma)).unsqueeze(2) for tensor in own)  # [B, H_kv, 1, C, γ, D]
    beside = (query.flatten(2, 4) @ main[0].transpose(2, 3)).view(*query.shape[:-1], rows)  # [B, H_kv, G, C, γ, R]
    among = query @ key.transpose(-1, -2)  # [B, H_kv, G, C, γ, γ]
    if softcap is not None:
        beside, among = (torch.tanh(scores / softcap) * softcap for scores in (beside, among))
    later = torch.ones(gamma, gamma, dtype=torch.bool, device=query.device).triu(1)
    scores = torch.cat((_masked(beside, ~seen[:, None, None, :, None]), _masked(among, later)), dim=-1)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    found = (weights[..., :rows].flatten(2, 4) @ main[1]).view_as(query) + weights[..., rows:] @ value
    return found.flatten(1, 2).flatten(2, 3)


def _masked(scores: Tensor, where: Tensor) -> Tensor:
    """`scores` with -inf where `where` is True; added, since the gradient then needs no copy."""
    return scores + torch.zeros_like(where, dtype=scores.dtype).masked_fill(where, -torch.inf)


def _seen(sources: Tensor, rows: int, mask: Tensor | None) -> Tensor:
    """Which of R = `rows` main rows C sources see: sources [B, C] -> bool [B, C, R].

    A mask that the model made (padding, sliding window) is the authority on that; without one a source sees all rows up
    to itself.
    """
    if mask is None:
        return torch.arange(rows, device=sources.device) <= sources.unsqueeze(-1)
    index = sources.unsqueeze(-1).expand(-1, -1, rows)
    main = mask[:, 0, :, :rows].expand(sources.shape[0], -1, -1).gather(1, index)
    return main if main.dtype == torch.bool else main == 0


def _visible(sources: Tensor, gamma: int, rows: int, mask: Tensor | None) -> Tensor:
    """What C sources' streams may see: sources [B, C] -> bool [B, 1, C·γ, R + C·γ].

    With rows x0..x3, sources [1, 3], γ = 2 (columns: x0 x1 x2 x3 | 1/1 1/2 3/1 3/2):

        1/1   1 1 0 0 | 1 0 0 0
        1/2   1 1 0 0 | 1 1 0 0
        3/1   1 1 1 1 | 0 0 1 0
        3/2   1 1 1 1 | 0 0 1 1
    """
    batch, count = sources.shape
    own = torch.block_diag(*[torch.ones(gamma, gamma, device=sources.device, dtype=torch.bool).tril()] * count)
    main = _seen(sources, rows, mask).repeat_interleave(gamma, dim=1)
    return torch.cat((main, own.expand(batch, -1, -1)), dim=2).unsqueeze(1)


def dense_mask(plan: StreamPlan, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The whole mask of a pass for a model that computes attention by itself: additive [B, 1, R + S·γ, R + S·γ].

    It takes (R + S·γ)² numbers, which `_attend_in_chunks` spares other models. `mask` is what the model made.
    """
    rows = plan.num_main
    streams = _visible(plan.sources, plan.num_streams, rows, mask)
    if mask is None:
        mask = torch.ones(1, 1, rows, rows, dtype=torch.bool, device=streams.device).tril()
    main = mask if mask.dtype == torch.bool else mask == 0
    main = F.pad(main, (0, streams.shape[2])).expand(streams.shape[0], -1, -1, -1)
    seen = torch.cat((main, streams), dim=2)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


AttentionInterface.register(IMPLEMENTATION, stream_attention)
# Without a mask function under the same name transformers would pass no mask at all and ignore padding.
AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
