"""method=prune_head: a head for a finished adapter, of which everything else stays bit for bit what it was."""

import json

import pytest
import torch
from own_lora import PROMPTS, TOKENS, decoded, make_shelf, peft_texts, prepared, trained
from safetensors.torch import load_file

from ssft.bundle.format import HASHED, PROVENANCE, SSFT_CONFIG, STREAM_WEIGHTS
from ssft.bundle.read import read_bundle
from ssft.cli.inspect import collect
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError
from ssft.recipes.recipe import load_recipe
from ssft.runs.train import build_trainer
from ssft.runtime.loader import load_adapted

HEAD = ["method=prune_head", "training.prune_head_rank=4"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module", params=["own", "shared"])
def finished(request, shelf):
    """An adapter whose streams have a LoRA of their own, and one that shares the text's."""
    extra = (
        ["save_dtype=float16"] if request.param == "own" else ["training.mode=shared", "lora.r=4", "lora.lora_alpha=8"]
    )
    return trained(shelf, shelf.plain, shelf.folder / request.param, *extra)


def test_every_other_tensor_and_file_stays_as_it_was(shelf, finished, tmp_path):
    made = trained(shelf, finished, tmp_path / "made", *HEAD, "training.max_steps=12")
    for name in HASHED:
        if name not in (STREAM_WEIGHTS, SSFT_CONFIG) and (finished / name).exists():
            assert (made / name).read_bytes() == (finished / name).read_bytes()
    before, after = load_file(finished / STREAM_WEIGHTS), load_file(made / STREAM_WEIGHTS)
    assert after.keys() - before.keys() == {"prune_down", "prune_up"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["prune_up"].abs().max() > 1e-3, "the head learned nothing"
    settings = [json.loads((folder / SSFT_CONFIG).read_text()) for folder in (finished, made)]
    assert settings[1]["streams"].pop("prune_head_rank") == 4
    assert settings[0]["streams"].pop("prune_head_rank") == 0
    assert settings[0] == settings[1]
    assert read_bundle(made).extra_parameters == read_bundle(finished).extra_parameters + 2 * 4 * 64
    facts = collect(str(made))
    assert facts["prune_head"] == {"rank": 4, "parameters": 2 * 4 * 64}
    assert collect(str(finished))["prune_head"] is None
    told = json.loads((made / PROVENANCE).read_text())
    assert told["prune_head"]["steps"] == 12
    assert "method: prune_head" in told["prune_head"]["recipe"]
    assert {key: value for key, value in told.items() if key != "prune_head"} == json.loads(
        (finished / PROVENANCE).read_text()
    )
    assert "| prune head: rank, parameters | 4, 512 |" in (made / "README.md").read_text()


def test_its_loss_falls_and_the_text_stays(shelf, finished, tmp_path):
    run = prepared(shelf, finished, *HEAD, "training.max_steps=40", output=tmp_path / "out")
    trainer = build_trainer(run)
    trainer.train()
    losses = [entry["loss_prune"] for entry in trainer.state.log_history if "loss_prune" in entry]
    assert losses[-1] < 0.8 * losses[0]
    made = trained(shelf, finished, tmp_path / "made", *HEAD, "training.max_steps=40")
    adapted = load_adapted(made, str(shelf.base), dtype="float32")
    adapted.active.tree = TreeConfig("best_first", 40, 12, prune_below=0.05)
    outputs = adapted.complete(PROMPTS, max_new_tokens=TOKENS, ignore_eos=True)
    assert [output.token_ids for output in outputs] == peft_texts(shelf.base, finished)


@pytest.mark.parametrize(
    "extra", [[], ["training.mode=shared", "lora.r=4", "lora.lora_alpha=8"]], ids=["own", "shared"]
)
def test_streams_and_head_may_be_trained_together(shelf, tmp_path, extra):
    both = [
        "training.prune_head_rank=4",
        "training.prune_loss_weight=1",
        "tree.prune_below=0.02",
        "training.max_steps=12",
    ]
    made = trained(shelf, shelf.plain, tmp_path / "made", *both, *extra)
    bundle = read_bundle(made)
    assert (bundle.stream_config.prune_head_rank, bundle.tree.prune_below) == (4, 0.02)
    assert bundle.stream_weights["prune_up"].abs().max() > 1e-3, "the head learned nothing"
    outputs = decoded(shelf.base, made)
    assert [output.token_ids for output in outputs] == peft_texts(shelf.base, made)


def test_the_states_are_those_of_decoding(shelf, finished, tmp_path):
    """What the trainer reads is what the layers below the streams give, under the text's LoRA."""
    trainer = build_trainer(prepared(shelf, finished, *HEAD, output=tmp_path / "out"))
    batch = next(iter(trainer.get_train_dataloader()))
    found = trainer._entered(batch)
    seen = []
    layer = trainer.backbone.layers[trainer.first]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad(), trainer.adapted.applied(len(batch["input_ids"])):
        trainer.adapted.model(input_ids=batch["input_ids"], use_cache=False)
    handle.remove()
    torch.testing.assert_close(found, seen[0])


def test_a_head_is_replaced_by_a_new_one(shelf, finished, tmp_path):
    first = trained(shelf, finished, tmp_path / "first", *HEAD)
    second = trained(shelf, first, tmp_path / "second", "method=prune_head", "training.prune_head_rank=2")
    assert load_file(second / STREAM_WEIGHTS)["prune_up"].shape == (64, 2)
    assert read_bundle(second).stream_config.prune_head_rank == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=prune_head"], r"training.prune_head_rank=0: a prune head is to be trained, and has no rank"),
        (
            [*HEAD, "adapter="],
            "method=prune_head trains a prune head for an adapter, and none is named; set adapter=FOLDER",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(shelf, finished, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_trainer(prepared(shelf, finished, *settings, output=tmp_path / "out"))


def test_an_adapter_without_streams_is_refused(shelf, tmp_path):
    with pytest.raises(ConfigError, match="'plain' has no streams, so there is nothing to prune"):
        build_trainer(prepared(shelf, shelf.plain, *HEAD, output=tmp_path / "out"))


def test_a_tree_that_prunes_needs_a_head_in_the_recipe():
    with pytest.raises(ConfigError, match=r"tree\.prune_below=0\.1, tree\.prune_keep=0: without a prune head"):
        load_recipe("quickstart", ["tree.prune_below=0.1"])
    load_recipe("quickstart", ["tree.prune_below=0.1", "training.prune_head_rank=8"])
