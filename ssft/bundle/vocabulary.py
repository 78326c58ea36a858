"""The draft vocabulary in a bundle: the sorted token ids that an adapter's streams guess from, in a file of their own.

The file holds one tensor, `ids` [v], as int32 or int64. What its header tells is checked first, then the numbers, and
whether a base has these token ids once that is known.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssft.bundle.folder import INTEGERS, AdapterFiles
from ssft.bundle.format import DRAFT_VOCABULARY, Bundle
from ssft.errors import BundleError

MAX_IDS = 2**21
"""Several times the vocabulary of any base."""

_KEY = "ids"


def vocabulary_outline(files: AdapterFiles) -> Tensor:
    """The token ids on the device "meta", as the header has them; raises `BundleError` for what can be none."""
    held = files.shapes(DRAFT_VOCABULARY, MAX_IDS * 8 + 2**16, INTEGERS)
    if list(held) != [_KEY] or held[_KEY].ndim != 1:
        found = {key: tuple(tensor.shape) for key, tensor in held.items()}
        raise BundleError(
            f"{files.path / DRAFT_VOCABULARY}: holds {found}, expected the list {_KEY!r} of token ids alone"
        )
    return held[_KEY]


def vocabulary_ids(files: AdapterFiles) -> Tensor:
    """The token ids [v] of a file whose outline was checked; raises `BundleError` unless they rise from 0 or above."""
    ids = files.tensors(DRAFT_VOCABULARY)[_KEY].long()
    wrong = (ids.diff() <= 0).nonzero()
    if ids[0] < 0 or len(wrong):
        what = f"the token id {int(ids[0])}" if ids[0] < 0 else "{} before {}".format(*ids[wrong[0] :][:2].tolist())
        raise BundleError(
            f"{files.path / DRAFT_VOCABULARY}: holds {what}; token ids stand there from the least to the greatest, "
            "each once, none below 0"
        )
    return ids


def vocabulary_for(bundle: Bundle, vocab_size: int) -> Tensor | None:
    """The draft vocabulary [v] of a bundle for a base of `vocab_size` token ids; None where the bundle has none.

    Raises `BundleError` for ids that the base does not have.
    """
    ids = bundle.draft_vocabulary
    if ids is not None and int(ids[-1]) >= vocab_size:
        raise BundleError(
            f"{bundle.path / DRAFT_VOCABULARY}: holds the token id {int(ids[-1])}, but the base has {vocab_size:,} "
            "token ids, from 0 on; the file is from an adapter for another base"
        )
    return ids


def save_vocabulary(folder: Path, ids: Tensor) -> None:
    """Write the token ids [v] into the folder of a bundle, sorted, each once."""
    save_file({_KEY: ids.unique().to(torch.int32)}, folder / DRAFT_VOCABULARY)
