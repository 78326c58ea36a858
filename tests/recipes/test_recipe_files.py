"""A recipe's file: YAML that is right and wrong, and a recipe that is written as a file and read again."""

import pytest

from ssft.errors import ConfigError
from ssft.recipes.recipe import dump_recipe, load_recipe, recipe_names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  train: [", r"mine\.yaml, line 2: invalid YAML"),
        ("training:\n  num_streams: 1\n  num_streams: 2\n", r"line 3: invalid YAML: duplicate key 'num_streams'"),
        ("tree: {}\ntree: {}\n", "line 2: invalid YAML: duplicate key 'tree'"),
        ("", "a recipe is a mapping"),
        ("- a", "a recipe is a mapping"),
        ("data: 3", "section data is 3; write indented"),
        (
            "training:\n  num_stream: 3",
            r"mine\.yaml: unknown key training\.num_stream; did you mean 'training\.num_streams'\?",
        ),
        ("trainig:\n  num_streams: 3", "unknown key trainig; "),
        ("num_streams: 3", r"unknown key num_streams; did you mean 'training\.num_streams'\?"),
        ("lora:\n  task_type: SEQ_CLS", "lora.task_type cannot be set in a recipe: ssft sets it"),
        ("training:\n  output_dir: x", "training.output_dir cannot be set.*--output"),
        ("training:\n  push_to_hub: true", "training.push_to_hub cannot be set in a recipe: .*`ssft push`"),
        ("training:\n  hub_model_id: me/x", "training.hub_model_id cannot be set in a recipe: .*`ssft push`"),
        ("training:\n  trust_remote_code: true", "trust_remote_code cannot be set in a recipe: it would run code"),
        ("training:\n  model_init_kwargs: {a: 1}", "model_init_kwargs cannot be set in a recipe: ssft loads the base"),
        ("training:\n  learning_rate: fast", "training.learning_rate='fast', expected a number from 0"),
        ("data:\n  train: 3", "data.train=3, expected str"),
        ("medusa:\n  num_layer: 1", r"unknown key medusa\.num_layer; did you mean .*medusa\.num_layers"),
        ("draft:\n  layrs: first", r"unknown key draft\.layrs; did you mean 'draft\.layers'"),
        ("draft:\n  layers: last", r"draft\.layers='last', expected 'spaced' \\| 'first'"),
        ("method: dora", r"method='dora', expected 'streams' \\| 'lora' \\| 'medusa' \\| 'draft'"),
        ("quantization: 8bit", "quantization='8bit', expected 'none' \\| '4bit'"),
    ],
)
def test_bad_files(write_recipe, text, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(write_recipe(text))


def test_an_empty_section_is_all_defaults(write_recipe):
    assert load_recipe(write_recipe("base: x\ntree:\n")).tree == load_recipe(write_recipe("base: x")).tree


def test_yaml_scalars(write_recipe):
    text = (
        "training:\n  learning_rate: 1e-3\n  eval_strategy: no\n  num_train_epochs: 2\n  stream_learning_rate: none\n"
    )
    training = load_recipe(write_recipe(text)).training
    assert training == {
        "learning_rate": 0.001, "eval_strategy": "no", "num_train_epochs": 2.0, "stream_learning_rate": None,
    }  # fmt: skip
    assert isinstance(training["num_train_epochs"], float)


@pytest.mark.parametrize("name", recipe_names())
def test_dump_round_trip(name, tmp_path):
    more = {
        "streams": ["lora.target_modules=[v_proj, q_proj]", "quantization=4bit"],
        "medusa": ["medusa.num_layers=2", "quantization=4bit"],
        "draft": ["draft.layers=first"],
    }
    recipe = load_recipe(name, ["learning_rate=1e-5", *more[load_recipe(name).method]])
    path = tmp_path / "run.yaml"
    path.write_text(dump_recipe(recipe))
    again = load_recipe(path)
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def test_dump_keeps_what_python_changed(write_recipe):
    recipe = load_recipe("quickstart")
    recipe.data.max_train_rows, recipe.tree.top_k, recipe.training["run_name"] = 7, 9, "1e-3"
    again = load_recipe(write_recipe(dump_recipe(recipe)))
    assert (again.data.max_train_rows, again.tree.top_k, again.training["run_name"]) == (7, 9, "1e-3")


def test_dump_keeps_explicit_defaults():
    assert "top_k: 4" in dump_recipe(load_recipe("quickstart", ["top_k=4"]))
    assert "top_k" not in dump_recipe(load_recipe("quickstart"))


def test_a_run_file_of_streams_is_what_it_always_was():
    assert "method" not in dump_recipe(load_recipe("quickstart"))
    assert "adapter" not in dump_recipe(load_recipe("quickstart"))
    assert "method: lora" in dump_recipe(load_recipe("quickstart", ["method=lora"]))
