"""The low-rank products of linear modules that are given the same input, in as few and as fast operations as there are.

    q, k, v with one input x [n, in]:    low = x [Aq; Ak; Av]ᵀ         one product
                                         out[.., q] += s · low_q Bqᵀ   one for each module, into its own columns

On a CPU the products are in float32 whatever the model computes in: those of few rows take less time in it.
"""

from itertools import accumulate

import torch
from torch import Tensor

from ssft.base.kernels.shapes import ROWS, whole


class StackedLora:
    """The LoRA of modules whose outputs stand side by side: one product with all A, then one with each B."""

    def __init__(self, layers: list[tuple[tuple[int, int], Tensor, Tensor, float]], width: int) -> None:
        """`layers`: the columns (begin, end) of a common output [.., width], A [r, in], B [end - begin, r], scaling."""
        # In the order in which they lie in the adapter's buffer, where those of neighbours are one matrix already.
        layers = sorted(layers, key=lambda layer: layer[1].storage_offset())
        downs = [down for _, down, _, _ in layers]
        self.down_t = _stacked(downs).T
        ends = list(accumulate(map(len, downs)))
        # Of each layer: its columns of the output, its columns of the product with all A, Bᵀ and its scaling.
        self.ups = [
            (columns, (end - len(down), end), up.T, scaling)
            for (columns, down, up, scaling), end in zip(layers, ends, strict=True)
        ]
        self.everywhere = sum(end - begin for (begin, end), *_ in layers) == width

    def add(self, x: Tensor, out: Tensor, beta: int = 1) -> None:
        """out [n, width] = beta · out + the products of x [n, in], in the columns that have one; all of one type."""
        low = x.mm(self.down_t)
        for (begin, end), (first, last), up_t, scaling in self.ups:
            part = out[:, begin:end]
            torch.addmm(part, low[:, first:last], up_t, beta=beta, alpha=scaling, out=part)


def add_products(x: Tensor, out: Tensor, text: StackedLora | None, own: StackedLora | None, main: int) -> None:
    """out [b, R, width] += the products of x [b, R, in], in place: `text` on all rows, `own` on those from `main` on.

    `own` is the LoRA of the streams' own (paper §3.2.4, lossless), whose rows stand behind the main rows.
    """
    first = text or own
    assert first is not None
    batch, rows, width = out.shape
    if x.dtype == first.down_t.dtype:
        if text is not None:
            text.add(x.reshape(-1, x.shape[-1]), out.view(-1, width))
        if own is not None:
            _add_own(x, out, own, main)
        return
    # In fours, so that a row's sums have the bits that they have in any other pass.
    count = batch * rows
    wide = x.new_zeros(whole(count, ROWS), x.shape[-1], dtype=first.down_t.dtype)
    wide[:count] = x.reshape(count, -1)
    everywhere = text is not None and text.everywhere
    sums = (wide.new_empty if everywhere else wide.new_zeros)(len(wide), width)
    if text is not None:
        text.add(wide, sums, beta=0)
    if own is not None:
        _add_own(wide[:count].view(batch, rows, -1), sums[:count].view_as(out), own, main)
    out += sums[:count].view_as(out).to(out.dtype)


def _add_own(x: Tensor, out: Tensor, own: StackedLora, main: int) -> None:
    """out [b, R, width] += the products of the rows of x [b, R, in] from `main` on; all of one type."""
    if len(x) == 1:
        own.add(x[0, main:], out[0, main:])
        return
    # The stream rows of several sequences are no one block of memory.
    streams = out[:, main:]
    sums = out.new_zeros(streams.shape)
    own.add(x[:, main:].flatten(0, 1), sums.view(-1, out.shape[-1]))
    streams += sums


def _stacked(parts: list[Tensor]) -> Tensor:
    """Contiguous matrices [r, in] one below the other: a view of their buffer where they are neighbours there."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() or part.storage_offset() != end:
            return torch.cat(parts)
        end += part.numel()
    return first.as_strided((sum(map(len, parts)), first.shape[1]), (first.shape[1], 1), first.storage_offset())
