"""Masks of a decoding pass: the drawn example, ragged batches, padding rows and sliding windows."""

import pytest
import torch

from ssft.decoding.masks import tree_masks
from ssft.decoding.tree import DraftTree

CHAIN = DraftTree([7, 8], [-1, 0], [0, 1], [0.0, 0.0])
#   0 ─┬─ 1 ─── 3
#      └─ 2
FORK = DraftTree([7, 8, 9, 10], [-1, 0, 0, 1], [0, 1, 1, 2], [0.0] * 4)
LONE = DraftTree([7])
LIKE = torch.zeros(())


def drawn(mask, row=0):
    """One row's mask as strings of 0 and 1; the two values are all there may be."""
    lowest = torch.finfo(mask.dtype).min
    assert ((mask == 0) | (mask == lowest)).all()
    return ["".join("1" if v == 0 else "0" for v in line) for line in mask[row, 0].tolist()]


def test_docstring_example():
    lower, upper = tree_masks([CHAIN], [2], 2, [[1]], 2, LIKE)
    assert drawn(upper) == ["111000", "111100", "111110", "111111"]
    assert drawn(lower) == ["1110", "1111"]


def test_shapes_are_those_of_the_docstring():
    lower, upper = tree_masks([FORK, CHAIN], [3, 5], 4, [[0, 3], [1, 0]], 3, LIKE)
    assert lower.shape == (2, 1, 4, 5 + 4)
    assert upper.shape == (2, 1, 4 + 6, 5 + 4 + 6)
    assert lower.is_contiguous()


def test_without_sources_there_is_no_upper_mask():
    lower, upper = tree_masks([FORK], [1], 4, [[]], 3, LIKE)
    assert upper is None
    assert drawn(lower) == ["11000", "11100", "11010", "11101"]


def test_streams_of_two_nodes_do_not_see_each_other():
    _, upper = tree_masks([FORK], [1], 4, [[2, 3]], 2, LIKE)
    assert drawn(upper)[4:] == [
        "1" + "1010" + "1000",
        "1" + "1010" + "1100",
        "1" + "1101" + "0010",
        "1" + "1101" + "0011",
    ]


def test_each_row_starts_at_its_own_length_and_padding_rows_see_only_themselves():
    lower, upper = tree_masks([CHAIN, LONE], [1, 3], 2, [[1], [0]], 1, LIKE)
    assert drawn(lower, 0) == ["11000", "11100"]
    assert drawn(lower, 1) == ["11110", "00001"]
    # columns: row 0  x0 | n0 n1 | s | free free    row 1  x0 x1 x2 | n0 pad | s
    assert drawn(upper, 0) == ["110000", "111000", "111100"]
    assert drawn(upper, 1) == ["111100", "000010", "111101"]


def test_every_row_sees_something():
    _, upper = tree_masks([FORK, LONE, CHAIN], [2, 9, 0], 4, [[3, 0], [0, 0], [1, 0]], 2, LIKE)
    assert (upper == 0).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_the_models(dtype):
    lower, upper = tree_masks([CHAIN], [2], 2, [[1]], 2, torch.zeros((), dtype=dtype))
    assert lower.dtype == upper.dtype == dtype
    assert upper.min() == torch.finfo(dtype).min


def test_sliding_window_counts_from_the_node_and_streams_see_what_it_sees():
    lower, upper = tree_masks([FORK], [4], 4, [[3]], 2, LIKE, window=3)
    # columns x0 x1 x2 x3 | n0 n1 n2 n3
    assert drawn(lower) == ["0011" + "1000", "0001" + "1100", "0001" + "1010", "0000" + "1101"]
    assert drawn(upper)[4:] == ["0000" + "1101" + "10", "0000" + "1101" + "11"]


def test_sliding_window_shorter_than_the_tree_cuts_ancestors():
    lower, _ = tree_masks([FORK], [2], 4, [[]], 0, LIKE, window=2)
    assert drawn(lower) == ["01" + "1000", "00" + "1100", "00" + "1010", "00" + "0101"]


def test_window_wider_than_all_changes_nothing():
    wide = tree_masks([FORK, LONE], [4, 2], 4, [[3], [0]], 2, LIKE, window=100)
    plain = tree_masks([FORK, LONE], [4, 2], 4, [[3], [0]], 2, LIKE)
    assert all(torch.equal(a, b) for a, b in zip(wide, plain, strict=True))
