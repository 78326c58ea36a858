"""A recipe: its name and where it is found, what its settings become, and the help on its keys."""

import json
from dataclasses import fields

import pytest
from trl import SFTConfig

from ssft.base.load import DTYPES, QUANTIZATIONS
from ssft.errors import ConfigError
from ssft.recipes.recipe import RESERVED, SECTIONS, TOP, Recipe, describe_keys, load_recipe

# --- names and paths ---


def test_unknown_recipe():
    with pytest.raises(
        ConfigError, match=r"'quickstrt' is neither a shipped recipe nor a YAML file; did you mean 'quickstart'"
    ):
        load_recipe("quickstrt")


def test_a_near_name_in_a_folder_is_suggested():
    with pytest.raises(ConfigError, match=r"'medusa_sql' is neither .* did you mean 'peers/medusa_sql'\?"):
        load_recipe("medusa_sql")


def test_name_defaults_to_the_file(write_recipe):
    assert load_recipe(write_recipe("base: x")).name == "mine"
    assert load_recipe(write_recipe("name: other")).name == "other"


@pytest.mark.parametrize("name", ["../adapters/mine", "/tmp/mine", "..", ".hidden", "a/b", "a\\b", "two words", "a\nb"])
def test_a_name_is_no_path(write_recipe, name):
    with pytest.raises(ConfigError, match=r"name=.*letters, digits and . _ - only, and no dot in front; set name="):
        load_recipe(write_recipe(f"name: {json.dumps(name)}"))
    with pytest.raises(ConfigError, match=r"no dot in front"):
        load_recipe("quickstart", [f"name={name}"])


@pytest.mark.parametrize("name", ["sql", "v1.2_b-3", "größe", "_a", "7"])
def test_names_that_are_fine(name):
    assert load_recipe("quickstart", [f"name={name}"]).name == name


def test_a_name_that_python_gave_is_checked_too():
    with pytest.raises(ConfigError, match="no dot in front"):
        Recipe(name="../mine").check()


def test_nothing_of_a_recipe_uploads_or_runs_foreign_code():
    words = ("hub_", "push_to", "trust_", "model_init")
    risky = {f.name for f in fields(SFTConfig) if f.name.startswith(words)}
    assert len(risky) > 5
    assert risky <= set(RESERVED["training"])


# --- what becomes of the settings ---


@pytest.mark.parametrize(
    ("share", "layers", "number"),
    [("0.5", 24, 12), ("0.16", 24, 4), ("0.01", 30, 1), ("0.99", 30, 29), ("0.9", 2, 1), ("7", 30, 7)],
)
def test_a_share_of_layers_is_rounded_and_leaves_one_below(share, layers, number):
    recipe = load_recipe("sql", [f"num_msa_layers={share}"])
    assert recipe.stream_config(layers).num_msa_layers == number


@pytest.mark.parametrize(
    ("overrides", "bf16"),
    [(["dtype=float32"], False), (["dtype=bfloat16"], True), (["dtype=bfloat16", "bf16=false"], False)],
)
def test_training_args_follow_dtype_and_device(overrides, bf16):
    args = load_recipe("quickstart", overrides).build_training_args("out", "cpu")
    assert (args.use_cpu, args.bf16, args.fp16, args.report_to) == (True, bf16, False, [])


def test_training_args_errors_are_config_errors():
    recipe = load_recipe("quickstart", ["dtype=float32"])
    recipe.training["stream_loss_weight"] = -1.0
    with pytest.raises(ConfigError, match=r"stream_loss_weight=-1.0, expected a number from 0"):
        recipe.build_training_args("out", "cpu")
    recipe = load_recipe("quickstart", ["dtype=float32", "load_best_model_at_end=true", "eval_strategy=no"])
    with pytest.raises(ConfigError, match=r"recipe quickstart, training: .*load_best_model_at_end"):
        recipe.build_training_args("out", "cpu")


# --- the schema as help ---


@pytest.mark.parametrize("section", [TOP, *SECTIONS])
def test_every_key_is_described(section):
    keys = describe_keys(section)
    assert keys
    assert all(kind and text for _, kind, _, text in keys)
    assert not {key for key, *_ in keys} & set(RESERVED.get(section, {}))


def test_unknown_section():
    with pytest.raises(ConfigError, match=r"unknown section 'model'"):
        describe_keys("model")


def test_precisions_are_those_of_the_bases():
    kinds = {key: kind for key, kind, *_ in describe_keys(TOP)}
    assert set(kinds["quantization"].split(" | ")) == {repr(name) for name in QUANTIZATIONS}
    assert set(kinds["dtype"].split(" | ")) == {repr(name) for name in DTYPES}
