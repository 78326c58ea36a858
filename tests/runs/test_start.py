"""A run that begins from a trained adapter: its values are the run's first ones, and what does not fit is refused."""

import json
import shutil

import pytest
import torch
from adapter_folders import change_config, change_tensor, peft_folder
from conftest import TINY
from safetensors.torch import load_file
from tiny_base import rows, save_rows, save_tiny_base
from transformers import AutoModelForCausalLM

from ssft.bundle.format import BUNDLE_FILES
from ssft.bundle.read import read_bundle
from ssft.card.write import card_text
from ssft.errors import BundleError, ConfigError
from ssft.recipes.recipe import load_recipe
from ssft.runs.prepare import prepare
from ssft.runs.train import build_trainer, train
from ssft.streams.modules import CONTAINER

SETTINGS = [
    "dtype=float32", "lora.r=4", "lora.lora_alpha=8", "training.num_streams=2", "training.num_msa_layers=1",
    "training.per_device_train_batch_size=2", "training.logging_steps=1", "training.max_steps=1",
    "training.learning_rate=1e-3", "training.disable_tqdm=true", "data.validation_fraction=0.25",
]  # fmt: skip


def make_shelf(folder, architecture):
    """A base, data, and a LoRA that somebody trained with plain peft."""
    save_tiny_base(folder / "base", architecture)
    save_rows(folder / "train.jsonl", rows(8))
    peft_folder(folder / "plain", AutoModelForCausalLM.from_pretrained(folder / "base"))
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"), "llama")


def prepared(shelf, start, *extra, output=None):
    files = [f"base={shelf / 'base'}", f"data.train={shelf / 'train.jsonl'}", f"adapter={start}"]
    return prepare(load_recipe("quickstart", [*files, *SETTINGS, *extra]), output or shelf / "out", "cpu")


def trained(shelf, start, output, *extra):
    return train(prepared(shelf, start, *extra, output=output), output).path


def first_loss(trainer, key):
    trainer.train()
    return next(entry[key] for entry in trainer.state.log_history if key in entry)


@pytest.mark.parametrize("architecture", TINY)
def test_streams_and_twin_begin_from_the_lora(tmp_path, architecture):
    shelf = make_shelf(tmp_path, architecture)
    saved = load_file(shelf / "plain" / "adapter_model.safetensors")
    losses = {}
    for method, key in (("streams", "loss_main"), ("lora", "loss")):
        trainer = build_trainer(prepared(shelf, shelf / "plain", f"method={method}"))
        state = {name.replace(".default", ""): p for name, p in trainer.model.named_parameters() if "lora_" in name}
        assert state.keys() == saved.keys()
        assert all(torch.equal(state[name], value) for name, value in saved.items())
        losses[method] = first_loss(trainer, key)
    fresh = first_loss(build_trainer(prepared(shelf, "", "method=lora")), "loss")
    assert losses["streams"] == pytest.approx(losses["lora"], rel=1e-5)
    assert abs(losses["lora"] - fresh) > 0.01, "the start changes nothing, so the test shows nothing"


def test_an_adapter_with_streams_goes_on_with_them(shelf, tmp_path):
    first = trained(shelf, shelf / "plain", tmp_path / "first")
    trainer = build_trainer(prepared(shelf, first))
    found = next(value for name, value in trainer.model.named_parameters() if CONTAINER in name)
    assert torch.equal(found, load_file(first / "streams.safetensors")["stream_embeddings"])
    assert found.requires_grad
    # A twin takes the LoRA alone.
    names = [name for name, _ in build_trainer(prepared(shelf, first, "method=lora")).model.named_parameters()]
    assert not [name for name in names if CONTAINER in name]
    with pytest.raises(
        ConfigError, match=r"streams with num_streams=2, the run asks for 3; set training\.num_streams=2"
    ):
        build_trainer(prepared(shelf, first, "training.num_streams=3"))


@pytest.mark.parametrize("method", ["streams", "lora"])
def test_the_result_says_what_it_began_from(shelf, tmp_path, method):
    folder = trained(shelf, shelf / "plain", tmp_path / "out", f"method={method}", "training.max_steps=2")
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["adapter"] == {"name": "plain", "weights_sha256": read_bundle(shelf / "plain").weights_sha256}
    assert load_recipe(folder / "run.yaml").adapter == str(shelf / "plain")
    before, after = (load_file(f / "adapter_model.safetensors") for f in (shelf / "plain", folder))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    # Warm-up's first step is small: the values are still near those of the start.
    assert all((before[key] - after[key]).abs().max() < 0.01 for key in before)
    if method == "streams":
        assert {path.name for path in folder.iterdir()} <= set(BUNDLE_FILES)
        start = f"another adapter named plain (weights {facts['adapter']['weights_sha256'][:12]})"
        assert f"| began from | {start} |" in card_text(read_bundle(folder))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["lora.r=8"],
            r"has a LoRA of rank 4 .* on model.*, the run has a LoRA of rank 8 .*; set lora\.r=4, lora\.lora_alpha=8",
        ),
        (["lora.lora_alpha=16"], r"factor alpha/r 2 on model.*, the run has .* alpha/r 4 there; set lora\.r=4"),
        (
            ["lora.use_rslora=true"],
            r"alpha/r 4 there; .*the patterns, use_rslora and target_modules as the adapter has them",
        ),
        (["lora.target_modules=[q_proj]"], r"has a LoRA .* on .*, the run has no LoRA there; set .*target_modules"),
    ],
)
def test_another_lora_is_refused(shelf, overrides, message):
    run = prepared(shelf, shelf / "plain", *overrides)
    with pytest.raises(ConfigError, match=message):
        build_trainer(run)


def test_a_higher_rank_begins_by_saying_the_same(shelf):
    # Rank 8 in the top layer, at the factor of the LoRA that is begun from.
    wider = ["lora.rank_pattern={layers\\.3\\..*: 8}", "lora.alpha_pattern={layers\\.3\\..*: 16}"]
    trainer = build_trainer(prepared(shelf, shelf / "plain", *wider))
    saved = load_file(shelf / "plain" / "adapter_model.safetensors")
    state = {
        name.replace(".default", ""): p.detach() for name, p in trainer.model.named_parameters() if "lora_" in name
    }
    assert state.keys() == saved.keys()
    for key, value in saved.items():
        rank = 8 if ".layers.3." in key else 4
        down = "lora_A" in key
        assert state[key].shape[0 if down else 1] == rank
        kept, new = state[key].split([4, rank - 4], dim=0 if down else 1)
        assert torch.equal(kept, value)
        if rank > 4:
            assert bool(new.abs().max() > 0) == down, "A's new rows are to learn, and B's new columns say nothing yet"
    same = first_loss(trainer, "loss_main")
    assert same == pytest.approx(first_loss(build_trainer(prepared(shelf, shelf / "plain")), "loss_main"), rel=1e-5)


def test_a_lower_rank_is_refused(shelf):
    run = prepared(shelf, shelf / "plain", "lora.r=2", "lora.lora_alpha=4")
    with pytest.raises(
        ConfigError, match=r"of rank 4 .*of rank 2 .*; ranks may be higher where the factors are the same"
    ):
        build_trainer(run)


def test_a_run_with_more_modules_than_the_start_is_refused(shelf, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(shelf / "base")
    few = peft_folder(tmp_path / "few", base, target_modules=["q_proj", "v_proj"])
    with pytest.raises(ConfigError, match=r"has no LoRA on .*, the run has a LoRA .* there; set .*: q_proj, v_proj"):
        build_trainer(prepared(shelf, few))


def test_what_cannot_be_begun_from_is_refused_before_training(shelf, tmp_path):
    with pytest.raises(BundleError, match="is no folder"):
        prepared(shelf, tmp_path / "gone")
    files = [f"base={shelf / 'base'}", f"data.train={shelf / 'train.jsonl'}"]
    recipe = load_recipe("quickstart", [*files, *SETTINGS, "training.mode=lossless"])
    lossless = train(prepare(recipe, tmp_path / "lossless", "cpu"), tmp_path / "lossless").path
    with pytest.raises(ConfigError, match=r"lossless: its LoRA acts on its streams alone.*mode=shared or a plain LoRA"):
        prepared(shelf, lossless)
    save_tiny_base(tmp_path / "other", hidden_size=32)
    with pytest.raises(BundleError, match=r"has shape .*, the base needs"):
        prepared(shelf, shelf / "plain", f"base={tmp_path / 'other'}")
    dora = tmp_path / "dora"
    shutil.copytree(shelf / "plain", dora)
    change_config(dora, use_dora=True)
    with pytest.raises(BundleError, match="cannot decode as a low-rank sum"):
        prepared(shelf, dora)


def test_a_resumed_run_must_find_the_start_it_began_from(shelf, tmp_path, monkeypatch):
    start = tmp_path / "start"
    shutil.copytree(shelf / "plain", start)

    def stop(*_, **__):
        raise KeyboardInterrupt

    words = ["training.max_steps=2", "training.save_steps=1"]
    with monkeypatch.context() as patch:
        patch.setattr("ssft.runs.train._write", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(shelf, start, tmp_path / "out", *words)
    weights = (start / "adapter_model.safetensors").read_bytes()
    change_tensor(start, "adapter_model.safetensors", lambda t: t * 1.5)
    with pytest.raises(ConfigError, match=r"given in the files of adapter='.*start'; resume with"):
        train(prepared(shelf, start, *words, output=tmp_path / "out"), tmp_path / "out", resume=True)
    (start / "adapter_model.safetensors").write_bytes(weights)
    run = prepared(shelf, start, *words, output=tmp_path / "out")
    assert train(run, tmp_path / "out", resume=True).provenance["steps"] == 2
