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
            each = [factor for factor, rank in zip(factors, ranks, strict=True) for _ in range(rank)]
            self.scaling, self.scales = 1.0, downs[0].new_tensor(each)

    def add(self, x: Tensor, out: Tensor) -> None:
        """out [n, width] += the products of x [n, in], in place; all of one type."""
        torch.addmm(out, self._low(x), self.up, alpha=self.scaling, out=out)

    def add_roughly(self, x: Tensor, out: Tensor) -> None:
        """out [.., width] += the products of x [.., in], whatever their types; the sums have no bits to keep."""
        products = self._low(x.reshape(-1, x.shape[-1]).to(self.down_t.dtype)).mm(self.up)
        out.add_(products.view(out.shape), alpha=self.scaling)

    def _low(self, x: Tensor) -> Tensor:
        """x [n, in] -> what all B multiply [n, Σr]."""
        low = x.mm(self.down_t)
        return low if self.scales is None else low.mul_(self.scales)


def add_products(x: Tensor, out: Tensor, text: StackedLora | None, own: StackedLora | None, main: int) -> None:
    """out [b, R, width] += the products of x [b, R, in], in place: `text` on all rows, `own` on those from `main` on.

    `own` is the LoRA of the streams' own (paper §3.2.4, lossless). Its rows stand behind the main rows, whose bits it
    leaves alone; they guess, so that theirs decide no text.
    """
    if text is not None:
        batch, rows, width = out.shape
        dtype, count = text.down_t.dtype, batch * rows
        flat, sums = x.reshape(count, -1), out.view(count, width)
        if x.dtype != dtype:
            flat, sums = _in_fours(flat.to(dtype)), _in_fours(sums.to(dtype))
        text.add(flat, sums)
        if x.dtype != dtype:
            out.copy_(sums[:count].view_as(out))
    if own is not None:
        own.add_roughly(x[:, main:], out[:, main:])


def _in_fours(rows: Tensor) -> Tensor:
    """Rows [n, ..], then zeros up to a multiple of four, so that a row's sums have the bits of any other pass."""
    missing = -rows.shape[0] % ROWS
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
