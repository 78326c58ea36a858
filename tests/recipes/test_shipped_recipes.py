"""Every recipe that ships resolves, drafts as much as pays, and says in its head how it is run."""

import re

import pytest

from ssft.recipes.recipe import load_recipe, recipe_head, recipe_names, recipe_path
from ssft.runs.prepare import default_output

SHIPPED = recipe_names()


def test_there_are_shipped_recipes():
    assert {"quickstart", "sql", "dialogsum", "e2e_nlg", "peers/medusa_sql", "peers/draft_sql"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_resolves(name):
    recipe = load_recipe(name)
    assert recipe.name == (name.rpartition("_")[2] if "/" in name else re.sub(r"(?<!^add)_streams$", "", name))
    assert recipe.lora.task_type == "CAUSAL_LM"
    args = recipe.build_training_args("out", "cpu")
    assert args.output_dir == "out"
    assert args.learning_rate == recipe.training["learning_rate"]
    if recipe.method == "streams":
        assert args.num_streams == recipe.training["num_streams"]
        assert args.activation_checkpointing is False
    assert load_recipe(recipe_path(name)) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_head_comment_has_launch_line_and_override(name):
    head = re.sub(r" \\\n +", " ", recipe_head(recipe_path(name)))  # a command may go over several lines
    launches = re.findall(rf"^  ssft train {name} (.*)$", head, flags=re.M)
    recipe = load_recipe(name)
    # Where it is written anyway: not over an adapter that ships, and where the commands that compare look for a peer.
    assert f"--output {default_output(recipe)}" in launches
    overridden = [launch.split(" --output")[0].split() for launch in launches if "=" in launch]
    assert overridden
    assert all(load_recipe(name, overrides) for overrides in overridden)
    assert re.search(r"^Expected .*minutes", head, flags=re.M)


@pytest.mark.parametrize("recipe", ["peers/medusa_sql", "peers/draft_sql", "sql_streams"])
def test_a_recipe_over_an_adapter_has_the_adapter_s_data(recipe):
    main, peer = (load_recipe(name).data for name in ("sql", recipe))
    for key in ("train", "revision", "prompt_template", "completion_template", "validation", "validation_fraction"):
        assert getattr(peer, key) == getattr(main, key), key


def test_the_recipe_for_any_lora_adds_streams_as_the_shipped_adapters_have_them():
    general, task = (load_recipe(name) for name in ("add_streams", "e2e_nlg_streams"))
    assert general.adapter
    assert not general.data.prompt_template
    assert general.data.max_train_rows == 0
    for recipe in (general, task):
        recipe.data, recipe.adapter, recipe.name = None, "", ""
    assert general == task


STREAMS = [name for name in SHIPPED if load_recipe(name).method == "streams"]


@pytest.mark.parametrize("name", STREAMS)
def test_streams_take_a_share_of_whatever_layers_the_base_has(name):
    """The paper's share is 1/6 to 1/2 (§4)."""
    recipe = load_recipe(name)
    assert isinstance(recipe.training["num_msa_layers"], float)
    assert 1 / 6 <= recipe.training["num_msa_layers"] <= 1 / 2
    for layers in (12, 16, 18, 24, 28, 30, 32):
        assert layers // 6 <= recipe.stream_config(layers).num_msa_layers <= layers / 2
    if recipe.base == "smollm2-135m":
        measured = 12 if recipe.training.get("mode") == "lossless" else 8
        assert recipe.stream_config(num_layers=30).num_msa_layers == measured


@pytest.mark.parametrize("name", STREAMS)
def test_streams_draft_as_much_as_pays(name):
    tree = load_recipe(name).tree
    assert (tree.kind, tree.budget, tree.max_nodes) == ("best_first", "auto", 16)
    assert (tree.max_stream_nodes, tree.max_batch_nodes) == (0, 0), "limits that a cost table knows better"


@pytest.mark.parametrize("task", ["sql", "dialogsum", "e2e_nlg"])
def test_the_paper_s_runs_have_its_settings_and_our_data(task):
    paper, ours = load_recipe(f"paper_{task}"), load_recipe(task)
    paper.data.max_train_rows = ours.data.max_train_rows
    assert paper.data == ours.data
    assert (paper.base, paper.dtype, paper.lora.r, paper.quantization) == ("opt-1.3b", "bfloat16", 32, "none")
    settings = {"num_train_epochs": 5, "learning_rate": 5e-4, "lr_scheduler_type": "linear", "num_streams": 4}
    assert {key: paper.training[key] for key in settings} == settings
    assert paper.training["stream_loss_weight"] == 0.1
    assert paper.stream_config(24).num_msa_layers == (4 if task == "sql" else 12)
    assert "Not run here" in recipe_head(recipe_path(f"paper_{task}"))


@pytest.mark.parametrize("method", ["medusa", "draft"])
@pytest.mark.parametrize("task", ["sql", "dialogsum", "e2e_nlg"])
def test_heads_say_how_the_peers_of_every_task_are_made(method, task):
    name = f"peers/{method}_sql"
    commands = re.findall(rf"^  ssft train {name} (.*)$", recipe_head(recipe_path(name)), flags=re.M)
    recipes = [
        load_recipe(name, command.split(" --output")[0].split() if "=" in command else []) for command in commands
    ]
    homes = {str(default_output(recipe)): recipe for recipe in recipes}
    peer = homes[f"outputs/peers/{task}/{method}"]
    assert peer.name == task
    assert peer.training.get("max_length") == load_recipe(task).training.get("max_length")
