"""A run that keeps an adapter's LoRA and gives the streams one of their own: what trains, and what is written."""

import pytest
import torch
from own_lora import LORA, OWN, SETTINGS, decoded, make_shelf, peft_texts, prepared, trained
from safetensors.torch import load_file

from ssft.bundle.read import read_bundle
from ssft.errors import BundleError
from ssft.recipes.recipe import load_recipe
from ssft.runs.prepare import prepare
from ssft.runs.train import build_trainer


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def own(shelf):
    """A bundle of two steps over the plain LoRA."""
    return trained(shelf, shelf.plain, shelf.folder / "own")


def test_every_row_trains_over_the_kept_lora_and_only_the_streams_learn(shelf):
    trainer = build_trainer(prepared(shelf, shelf.plain))
    bare = build_trainer(prepared(shelf, ""))
    losses = {}
    for name, each in (("kept", trainer), ("bare", bare)):
        before = {n: p.detach().clone() for n, p in each.model.named_parameters()}
        each.train()
        moved = {n for n, p in each.model.named_parameters() if not torch.equal(p, before[n])}
        assert moved
        assert all("lora_" in n or "ssft_streams" in n for n in moved)
        losses[name] = next(entry["loss_main"] for entry in each.state.log_history if "loss_main" in entry)
    assert abs(losses["kept"] - losses["bare"]) > 0.01, "the kept LoRA does not act on the main stream"
    twin = prepare(
        load_recipe(
            "quickstart",
            [
                *(f"base={shelf.base}", f"data.train={shelf.data}", f"adapter={shelf.plain}", "method=lora"),
                *(s for s in SETTINGS if s[:6] not in ("lora.r", "lora.l") and "lossless" not in s),
                *("lora.r=4", "lora.lora_alpha=8"),
            ],
        ),
        shelf.folder / "twin",
        "cpu",
    )
    twin_trainer = build_trainer(twin)
    twin_trainer.train()
    first = next(entry["loss"] for entry in twin_trainer.state.log_history if "loss" in entry)
    assert losses["kept"] == pytest.approx(first, rel=1e-4)


def test_activation_checkpointing_gives_the_same_losses(shelf):
    found = []
    for checkpointing in ("false", "true"):
        trainer = build_trainer(
            prepared(shelf, shelf.plain, "training.max_steps=3", f"training.activation_checkpointing={checkpointing}")
        )
        trainer.train()
        found.append([entry["loss_stream_1"] for entry in trainer.state.log_history if "loss_stream_1" in entry])
    assert len(found[0]) == 3
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_run_over_an_adapter_with_streams_takes_its_lora_alone(shelf, own, tmp_path):
    again = trained(shelf, own, tmp_path / "again", "training.num_streams=2")
    first, second = (load_file(folder / LORA) for folder in (shelf.plain, again))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert read_bundle(again).stream_config.num_streams == 2
    # And a shared run begins from that LoRA, with streams of its own.
    lora = ("lora.r=4", "lora.lora_alpha=8")
    shared = build_trainer(prepared(shelf, own, "training.mode=shared", *lora, "training.num_msa_layers=1")).model
    begun = {name.replace(".default", ""): p for name, p in shared.named_parameters() if "lora_" in name}
    assert begun.keys() == first.keys()
    assert all(torch.equal(begun[key], value) for key, value in first.items())


def test_half_precision_on_disk(shelf, own, tmp_path):
    narrow = trained(shelf, shelf.plain, tmp_path / "narrow", "save_dtype=float16")
    assert {t.dtype for name in (LORA, OWN) for t in load_file(own / name).values()} == {torch.float32}
    assert {t.dtype for t in load_file(narrow / OWN).values()} == {torch.float16}
    assert (narrow / OWN).stat().st_size < 0.6 * (own / OWN).stat().st_size
    # What is kept says what it said.
    kept, given = (load_file(folder / LORA) for folder in (narrow, shelf.plain))
    assert all(torch.equal(kept[key], given[key]) for key in given)
    outputs = decoded(shelf.base, narrow)
    assert [output.token_ids for output in outputs] == peft_texts(shelf.base, narrow)
    twin = trained(shelf, "", tmp_path / "twin", "method=lora", "training.mode=shared", "save_dtype=bfloat16")
    assert {t.dtype for t in load_file(twin / LORA).values()} == {torch.bfloat16}


def test_values_that_16_bits_cannot_hold_are_refused(shelf, tmp_path):
    huge = ["lora.lora_alpha=8", "training.learning_rate=1e6", "save_dtype=float16"]
    with pytest.raises(BundleError, match=r"beyond the range of torch.float16; set save_dtype=bfloat16 or float32"):
        trained(shelf, "", tmp_path / "out", "method=lora", "training.mode=shared", *huge)
    assert not (tmp_path / "out").exists()
