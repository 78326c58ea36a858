"""Adapters with prune heads of their own in one batch, with others beside them: the text is each row's own."""

import shutil

import pytest
import torch
from shelf import Reference, save_adapter
from tiny_base import save_tiny_base

from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_with_vocabulary
from ssft.decoding.config import TreeConfig
from ssft.decoding.prune import Pruning
from ssft.errors import GenerationError
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig

TOKENS = 14
PROMPTS = [[5, 9, 40, 8], [7, 7, 3], [90, 22, 31, 4, 18, 64, 2], [50, 51]]
ADAPTERS = {
    "low": ({"r": 4}, StreamConfig(3, 2, prune_head_rank=4), TreeConfig("best_first", 40, 12, prune_below=0.02)),
    "high": ({"r": 8}, StreamConfig(5, 3, "rotation", prune_head_rank=2), TreeConfig("k_ary", 31, 5, prune_keep=6)),
    "none": ({"r": 2}, StreamConfig(2, 1), TreeConfig("best_first", 5, 4)),
}


@pytest.fixture(scope="module", params=["llama", "opt"])
def shelf(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    base = save_tiny_base(folder / "base", request.param)
    paths = {
        name: save_adapter(folder / name, base, lora, streams, tree, seed)
        for seed, (name, (lora, streams, tree)) in enumerate(ADAPTERS.items())
    }
    reference = Reference(base, dict(paths))
    low = shutil.copytree(paths["low"], folder / "some")
    paths["some ids"] = write_with_vocabulary(low, read_bundle(low), torch.arange(0, 97, 3)).path
    model = MultiAdapterModel.from_pretrained(base, dtype="float32")
    for name, path in paths.items():
        model.load_adapter(path, name)
    return model, lambda prompt, name: reference(prompt, "low" if name == "some ids" else name, TOKENS)


@pytest.fixture
def dropped(monkeypatch):
    """Rows that were spared, pass by pass."""
    found = []
    real = Pruning._left

    def left(self, main):
        result = real(self, main)
        found.append(0 if result is None else main.shape[1] - result.num_main)
        return result

    monkeypatch.setattr(Pruning, "_left", left)
    return found


MIXES = [
    ["low"] * 4,
    ["high", "low", "low", "high"],
    ["none", "low", None, "high"],
    ["some ids", "low", "high", "none"],
]


@pytest.mark.parametrize("mix", MIXES, ids=["-".join(map(str, mix)).replace(" ", "_") for mix in MIXES])
@pytest.mark.parametrize("lookup", [False, True])
def test_a_row_says_what_it_says_alone(shelf, mix, lookup, dropped):
    model, reference = shelf
    for adapter in model.adapters().values():
        adapter.tree.lookup = lookup
    found = model.generate(PROMPTS, mix, max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
    assert [row["token_ids"] for row in found] == [
        reference(prompt, name) for prompt, name in zip(PROMPTS, mix, strict=True)
    ]
    assert sum(dropped) > 0, "nothing was dropped, so the test shows nothing"
    assert sum(row["calls"] for row in found) < sum(row["tokens"] for row in found), "no draft was accepted"


def test_a_tree_that_prunes_needs_a_head(shelf):
    model, _ = shelf
    adapter = model.adapters()["none"]
    before, adapter.tree = adapter.tree, TreeConfig(prune_keep=3)
    try:
        with pytest.raises(GenerationError, match="the adapter has no prune head"):
            model.generate(PROMPTS, "none", max_new_tokens=4)
        assert model.generate(PROMPTS, "none", max_new_tokens=4, speculate=False)
    finally:
        adapter.tree = before


def test_the_head_is_counted(shelf):
    model, _ = shelf
    adapters = model.adapters()
    width = model.model.config.hidden_size
    assert adapters["low"].streams.count() == 3 * width + 2 * 4 * width
    assert adapters["low"].extra_parameters == adapters["low"].bundle.extra_parameters == 11 * width
