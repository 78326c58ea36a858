"""Overrides of single settings, key=value: the last one wins, a short key finds its section, a wrong one is named."""

import pytest

from ssft.errors import ConfigError
from ssft.recipes.recipe import load_recipe


def test_last_override_wins(write_recipe):
    path = write_recipe("training:\n  num_streams: 2\n")
    assert load_recipe(path).training["num_streams"] == 2
    assert load_recipe(path, ["training.num_streams=3"]).training["num_streams"] == 3
    assert load_recipe(path, ["training.num_streams=3", "num_streams=5"]).training["num_streams"] == 5


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("base=org/model", "", "base", "org/model"),
        ("data.train=5", "data", "train", "5"),
        ("data.validation=", "data", "validation", ""),
        ("data.prompt_template={question}", "data", "prompt_template", "{question}"),
        ("data.prompt_template=Q: {q}: ", "data", "prompt_template", "Q: {q}: "),
        ("max_nodes=8", "tree", "max_nodes", 8),
        ("lora.lora_dropout=0", "lora", "lora_dropout", 0.0),
        ("lora.target_modules=[q_proj]", "lora", "target_modules", {"q_proj"}),
        ("lora.layer_replication=[[0, 2]]", "lora", "layer_replication", [(0, 2)]),
        ("init_lora_weights=pissa_niter_4", "lora", "init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights=false", "lora", "init_lora_weights", False),
        ("training.report_to=[tensorboard]", "training", "report_to", ["tensorboard"]),
        ("training.lr_scheduler_kwargs={num_cycles: 2}", "training", "lr_scheduler_kwargs", {"num_cycles": 2}),
    ],
)
def test_override_values(override, section, key, value):
    recipe = load_recipe("quickstart", [override])
    holder = getattr(recipe, section) if section else recipe
    assert (holder[key] if isinstance(holder, dict) else getattr(holder, key)) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_streams", "write key=value"),
        ("=3", "write key=value"),
        ("num_stream=6", r"unknown key num_stream; did you mean 'training\.num_streams'\?"),
        ("traning.num_streams=6", r"unknown key traning\.num_streams; did you mean 'training\.num_streams'\?"),
        ("tree.num_streams=6", r"did you mean 'training\.num_streams'\?"),
        ("qqq=6", "unknown key qqq; sections are data, lora, training, tree, medusa, draft"),
        ("revision=x", r"revision is ambiguous; write data\.revision or lora\.revision"),
        ("output_dir=x", "training.output_dir cannot be set.*--output"),
        ("gradient_checkpointing=true", "old name of training.activation_checkpointing"),
        ("num_streams=2.5", "training.num_streams=2.5, expected int"),
        (
            "num_msa_layers=1.5",
            r"num_msa_layers=1\.5, expected a whole number of layers from 1, or a share of the base's layers above 0",
        ),
        ("num_msa_layers=0.0", r"num_msa_layers=0\.0, expected .*above 0 and below 1"),
        ("num_msa_layers=half", r"num_msa_layers='half', expected .*a share of the base's layers"),
        ("num_msa_layers=0", "num_msa_layers=0: streams need at least one layer to run in"),
        ("num_streams=true", "training.num_streams=True, expected int"),
        ("training.bf16=yes", "training.bf16='yes', expected bool"),
        ("lr_scheduler_type=foo", "expected 'linear' \\| 'cosine'"),
        ("lora.bias=both", "expected 'none' \\| 'all' \\| 'lora_only'"),
        ("lora.layers_to_transform=[a]", r"expected int \| list\[int\] \| none"),
        ("lora.lora_dropout=[1]", r"lora\.lora_dropout=\[1\], expected a number from 0, below 1"),
        ("lora.r=0", r"lora\.r=0, expected a whole number from 1"),
        ("lora.layers_pattern=x", "lora: .*cannot be used when"),
        ("max_nodes=0", "tree.max_nodes=0"),
        ("num_streams=99", "num_streams=99"),
        ("identifier=none", "identifier='none'"),
        ("validation_fraction=2", "data.validation_fraction=2.0"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", [override])
