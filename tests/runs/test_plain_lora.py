"""The plain-LoRA twin: the same LoRA, rows and losses as the run with streams, and a folder that is plain peft's."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bundle.read import read_bundle
from ssft.errors import ConfigError
from ssft.recipes.recipe import load_recipe
from ssft.runs.prepare import default_output, describe, prepare
from ssft.runs.provenance import method_of, told_by
from ssft.runs.train import build_trainer, train
from ssft.runtime.loader import load_adapted


@pytest.fixture
def files(tmp_path):
    """A base folder, training and validation rows, and a place for adapters."""
    save_tiny_base(tmp_path / "base")
    save_rows(tmp_path / "train.jsonl", rows(24))
    save_rows(tmp_path / "validation.jsonl", rows(4, start=50))
    return tmp_path


def recipe_for(files, *extra):
    settings = [
        f"base={files / 'base'}", f"data.train={files / 'train.jsonl'}",
        f"data.validation={files / 'validation.jsonl'}", "dtype=float32", "lora.r=4", "training.num_streams=3",
        "training.num_msa_layers=2", "training.per_device_train_batch_size=2", "training.logging_steps=1",
        "training.learning_rate=1e-2", "training.disable_tqdm=true", "training.max_steps=3",
    ]  # fmt: skip
    return load_recipe("quickstart", [*settings, *extra])


def prepared(files, name, *extra):
    return prepare(recipe_for(files, *extra), files / name, "cpu")


def lora_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(("projection", "order"), [(0, "random"), (2, "group_by_length")])
def test_a_twin_sees_the_same_rows_from_the_same_start(files, projection, order):
    seen, start, losses = {}, {}, {}
    for method in ("streams", "lora"):
        extra = [f"method={method}", f"training.projection_rank={projection}", "training.max_steps=15"]
        extra.append(f"training.train_sampling_strategy={order}")
        trainer = build_trainer(prepared(files, method, *extra))
        start[method] = lora_of(trainer.model)
        seen[method], step = [], trainer.training_step

        def spy(model, inputs, *rest, seen=seen[method], step=step, **keywords):
            seen.append(inputs["input_ids"].tolist())
            return step(model, inputs, *rest, **keywords)

        trainer.training_step = spy
        trainer.train()
        history = [e for e in trainer.state.log_history if "loss" in e]
        losses[method] = history[0]["loss_main" if method == "streams" else "loss"]
    # 15 steps over 12 batches: the second epoch's order is equal, too.
    assert len(seen["lora"]) == 15
    assert seen["lora"] == seen["streams"]
    assert start["lora"].keys() == start["streams"].keys()
    assert all(torch.equal(start["lora"][name], value) for name, value in start["streams"].items())
    assert losses["lora"] == pytest.approx(losses["streams"], rel=1e-5)


def test_a_twin_is_a_plain_peft_folder(files):
    run = prepared(files, "twin", "method=lora")
    trained = train(run, files / "twin")
    assert {p.name for p in trained.path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "run.yaml", "provenance.json",
    }  # fmt: skip
    bundle = read_bundle(files / "twin")
    assert bundle.stream_config is None
    assert json.loads((files / "twin" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        files / "base"
    )
    weights = load_file(files / "twin" / "adapter_model.safetensors")
    assert all("lora_A" in key or "lora_B" in key for key in weights)
    facts = json.loads((files / "twin" / "provenance.json").read_text())
    assert (facts["method"], facts["steps"], facts["base"]["id"]) == ("lora", 3, "base")
    assert load_recipe(files / "twin" / "run.yaml").method == "lora"
    assert not (files / "twin.run").exists()
    adapted = load_adapted(files / "twin", str(files / "base"), dtype="float32", device="cpu")
    done = adapted.complete([adapted.encode({"prompt": "say 3:"})], max_new_tokens=4, ignore_eos=True, speculate=False)
    assert len(done[0].token_ids) == 4


def test_a_twin_is_made_from_the_run_file_of_an_adapter(files):
    adapter = train(prepared(files, "adapter"), files / "adapter")
    recipe = load_recipe(adapter.path / "run.yaml", ["method=lora"])
    assert str(default_output(recipe)) == "outputs/peers/quickstart/twin"
    train(prepare(recipe, files / "twin", "cpu"), files / "twin")
    # The streams' loss reaches the LoRA, too: after three steps the two differ.
    one, two = (load_file(files / name / "adapter_model.safetensors") for name in ("adapter", "twin"))
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_a_twin_never_replaces_an_adapter_with_streams(files):
    train(prepared(files, "adapter"), files / "adapter")
    before = (files / "adapter" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"adapter exists and is no adapter that method=lora wrote.* with --output"):
        train(prepared(files, "adapter", "method=lora"), files / "adapter")
    assert (files / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert not (files / "adapter.run").exists()


def test_a_twin_replaces_an_earlier_twin_if_told_so(files):
    train(prepared(files, "twin", "method=lora", "training.seed=1"), files / "twin")
    run = prepared(files, "twin", "method=lora", "training.seed=2")
    with pytest.raises(ConfigError, match=r"twin holds a finished adapter, .* or replace it with --force"):
        train(run, files / "twin")
    assert load_recipe(files / "twin" / "run.yaml").training["seed"] == 1
    train(run, files / "twin", force=True)
    assert load_recipe(files / "twin" / "run.yaml").training["seed"] == 2


def test_dry_run_counts_no_streams(files):
    facts = describe(prepared(files, "twin", "method=lora"))
    assert facts["recipe"]["method"] == "lora"
    assert set(facts["parameters"]) == {"base", "lora"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "training.mode=lossless",
            r"method=lora with training.mode=lossless: .* or that of the adapter whose LoRA it kept; compare",
        ),
        ("training.packing=true", r"training.packing=true puts several rows into one"),
        ("training.num_streams=99", "num_streams=99"),
    ],
)
def test_what_has_no_twin(files, extra, message):
    with pytest.raises(ConfigError, match=message):
        recipe_for(files, "method=lora", extra)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"method": 3}', None])
def test_a_folder_that_says_nothing_was_made_by_nobody(tmp_path, content):
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    assert method_of(told_by(tmp_path)) == ""
