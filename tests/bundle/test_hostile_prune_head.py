"""Damaged and hostile prune heads are named errors, and the running model says the same before and after."""

import shutil

import pytest
import torch
from shelf import shared_shelf
from spoiling import SETTINGS, STREAMS, and_then, entry, section, tensors

from ssft.errors import BundleError
from ssft.runtime.model import MultiAdapterModel

PROMPT = [5, 9, 40, 8]
DOWN, UP = torch.ones(4, 64), torch.ones(64, 4)


def prune_head(**held):
    """Streams with a prune head of rank 4, made of these tensors."""
    return and_then(section("streams", prune_head_rank=4), tensors(STREAMS, lambda old: {**old, **held}))


NEEDED = f"but {SETTINGS} and the base need"
VARIANTS = {
    "a rank without tensors": (
        section("streams", prune_head_rank=10**12),
        f"{STREAMS}: no tensor has the side prune_head_rank=1000000000000",
    ),
    "a rank below zero": (section("streams", prune_head_rank=-1), "prune_head_rank=-1: θ is 0"),
    "a rank of text": (section("streams", prune_head_rank="8"), "streams.prune_head_rank='8', expected int"),
    "a rank that is true": (section("streams", prune_head_rank=True), "streams.prune_head_rank=True, expected int"),
    "half of it": (prune_head(prune_down=DOWN), f"{STREAMS}: holds .*prune_up.*None.*, {NEEDED}"),
    "a stray one": (
        tensors(STREAMS, lambda old: {**old, "prune_down": DOWN, "prune_up": UP}),
        f"{STREAMS}: holds .*prune_down.*, {NEEDED} .*None",
    ),
    "on its side": (prune_head(prune_down=UP.clone(), prune_up=DOWN.clone()), rf"prune_down.*\(64, 4\).*, {NEEDED}"),
    "of another width": (
        prune_head(prune_down=torch.ones(4, 32), prune_up=torch.ones(32, 4)),
        rf"prune_down.*\(4, 32\).*, {NEEDED}",
    ),
    "NaN in it": (
        prune_head(prune_down=DOWN, prune_up=UP * float("nan")),
        f"{STREAMS}: prune_up holds NaN or infinite values",
    ),
    "integers": (prune_head(prune_down=DOWN.int(), prune_up=UP), "prune_down has dtype I32, expected a floating-point"),
    "beyond float32": (prune_head(prune_down=DOWN.double() * 1e300, prune_up=UP), "beyond the range of float32"),
    "gigabytes": (
        and_then(
            section("streams", prune_head_rank=2**16, projection_rank=0), entry([2**16, 2**15], 2**33, key="prune_down")
        ),
        f"{STREAMS}: holds .*, {NEEDED}",
    ),
    "a tree that prunes without one": (
        section("tree", prune_below=0.5, prune_keep=2),
        r"tree\.prune_below=0\.5 and tree\.prune_keep=2 with streams\.prune_head_rank=0; without a prune head",
    ),
    "a chance above one": (
        section("tree", prune_below=1.5),
        r"tree\.prune_below=1\.5, expected a number from 0, below",
    ),
    "a chance of text": (section("tree", prune_below="0.5"), r"tree\.prune_below='0\.5', expected a number from 0"),
    "fewer nodes than none": (section("tree", prune_keep=-1), "tree.prune_keep=-1: 0 .all nodes. or a positive"),
}


@pytest.fixture(scope="module")
def model():
    model = MultiAdapterModel.from_pretrained(shared_shelf("llama").base, dtype="float32", device_map="cpu")
    model.load_adapter(shared_shelf("llama").paths["deep"])
    model.set_adapter("deep")
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_a_bad_prune_head_is_named_and_disturbs_nothing(model, tmp_path, name):
    damage, message = VARIANTS[name]
    folder = shutil.copytree(shared_shelf("llama").paths["projected"], tmp_path / "bad")
    damage(folder)
    before = model.generate(PROMPT, max_new_tokens=8, ignore_eos=True)
    with pytest.raises(BundleError, match=message) as caught:
        model.load_adapter(folder)
    assert len(str(caught.value)) < 2_000
    assert all(character.isprintable() for character in str(caught.value))
    assert list(model.adapters()) == ["deep"]
    assert model.generate(PROMPT, max_new_tokens=8, ignore_eos=True) == before


def test_a_whole_one_loads_and_changes_no_text(model, tmp_path):
    """However large its values are: then all that is judged is dropped, or nothing."""
    shelf = shared_shelf("llama")
    folder = shutil.copytree(shelf.paths["projected"], tmp_path / "good")
    prune_head(prune_down=DOWN * 1e15, prune_up=UP * 1e15)(folder)
    section("tree", prune_below=0.3)(folder)
    model.load_adapter(folder, "good")
    found = model.generate(PROMPT, "good", max_new_tokens=8, ignore_eos=True, return_dict=True)
    model.delete_adapter("good")
    assert found["token_ids"] == shelf.reference(PROMPT, "projected", 8)
