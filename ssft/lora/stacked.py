"""The low-rank products of linear modules that are given the same input, in as few and as fast operations as there are.

    q, k, v with one input x [n, in]:    low = x [Aq; Ak; Av]ᵀ                 one product
                                                       ┌ Bqᵀ         ┐
                                         out += s · low │     Bkᵀ     │        and one more
                                                       └         Bvᵀ ┘

On a CPU the products are in float32 whatever the model computes in: those of few rows take less time in it.
"""

from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ssft.base.kernels.shapes import ROWS


class StackedLora:
    """The LoRA of modules whose outputs stand side by side: one product with all A, then one with all B.

    down_t [in, Σr]; up [Σr, width], zero outside of each module's own columns; scaling: of all, or 1 and `scales` [Σr].
    """

    def __init__(self, layers: list[tuple[tuple[int, int], Tensor, Tensor, float]], width: int) -> None:
        """`layers`: the columns (begin, end) of a common output [.., width], A [r, in], B [end - begin, r], scaling."""
        # In the order in which they lie in the adapter's buffer, where those of neighbours are one matrix already.
        layers = sorted(layers, key=lambda layer: layer[1].storage_offset())
        downs = [down for _, down, _, _ in layers]
        ranks = [len(down) for down in downs]
        self.down_t = _stacked(downs).T
        self.up = _block([(begin, up.T) for (begin, _), _, up, _ in layers], width)
        factors = [scaling for *_, scaling in layers]
        self.scaling, self.scales = factors[0], None
        if len(set(factors)) > 1:
            self.scaling, self.scales = 1.0, downs[0].new_tensor(factors).repeat_interleave(torch.tensor(ranks))

    def add(self, x: Tensor, out: Tensor) -> None:
        """out [n, width] += the products of x [n, in], in place; all of one type."""
        low = x.mm(self.down_t)
        if self.scales is not None:
            low *= self.scales
        torch.addmm(out, low, self.up, alpha=self.scaling, out=out)


def add_products(x: Tensor, out: Tensor, text: StackedLora | None, own: StackedLora | None, main: int) -> None:
    """out [b, R, width] += the products of x [b, R, in], in place: `text` on all rows, `own` on those from `main` on.

    `own` is the LoRA of the streams' own (paper §3.2.4, lossless), whose rows stand behind the main rows.
    """
    first = text or own
    assert first is not None
    batch, rows, width = out.shape
    dtype, count = first.down_t.dtype, batch * rows
    flat, sums = x.reshape(count, -1), out.view(count, width)
    if x.dtype != dtype:
        flat, sums = _in_fours(flat.to(dtype)), _in_fours(sums.to(dtype))
    if text is not None:
        text.add(flat, sums)
    if own is not None:
        _add_own(flat[:count].view(batch, rows, -1), sums[:count].view(batch, rows, width), own, main)
    if x.dtype != dtype:
        out.copy_(sums[:count].view_as(out))


def _add_own(x: Tensor, out: Tensor, own: StackedLora, main: int) -> None:
    """out [b, R, width] += the products of the rows of x [b, R, in] from `main` on; all of one type."""
    if len(x) == 1:
        own.add(x[0, main:], out[0, main:])
        return
    # The stream rows of several sequences are no one block of memory.
    streams = out[:, main:].flatten(0, 1)
    own.add(x[:, main:].flatten(0, 1), streams)
    out[:, main:] = streams.view(len(x), -1, out.shape[-1])


def _in_fours(rows: Tensor) -> Tensor:
    """Rows [n, ..], then zeros up to a multiple of four, so that a row's sums have the bits of any other pass."""
    missing = -len(rows) % ROWS
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def _stacked(parts: list[Tensor]) -> Tensor:
    """Contiguous matrices [r, in] one below the other: a view of their buffer where they are neighbours there."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        if not _same_memory(part, first) or part.storage_offset() != end:
            return torch.cat(parts)
        end += part.numel()
    return first.as_strided((sum(map(len, parts)), first.shape[1]), (first.shape[1], 1), first.storage_offset())


def _block(parts: list[tuple[int, Tensor]], width: int) -> Tensor:
    """Matrices [r, columns] each from its first column on in rows of its own [Σr, width]; a view where they lie so."""
    bounds = list(pairwise(accumulate((len(part) for _, part in parts), initial=0)))
    begin, first = parts[0]
    start = first.storage_offset() - begin
    if all(
        _same_memory(part, first)
        and part.stride() == (width, 1)
        and part.storage_offset() == start + row * width + column
        for (column, part), (row, _) in zip(parts, bounds, strict=True)
    ):
        return first.as_strided((bounds[-1][1], width), (width, 1), start)
    block = first.new_zeros(bounds[-1][1], width)
    for (column, part), (row, end) in zip(parts, bounds, strict=True):
        block[row:end, column : column + part.shape[1]] = part
    return block


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
