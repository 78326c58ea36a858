"""A run without --output is written where the commands that compare look for it."""

from pathlib import Path

from ssft.recipes.recipe import dump_recipe, load_recipe, recipe_path
from ssft.runs.prepare import default_output


def test_heads_go_to_the_peers_of_their_adapter():
    recipe = load_recipe("peers/medusa_sql", ["adapter=adapters/mine"])
    assert str(default_output(recipe)) == "outputs/peers/mine/medusa"
    assert str(default_output(load_recipe("peers/medusa_sql", ["adapter=me/mine"]))) == "outputs/peers/mine/medusa"


def test_a_twin_goes_to_the_peers_of_the_adapter_whose_recipe_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Path("adapters/mine")
    home.mkdir(parents=True)
    (home / "run.yaml").write_text(dump_recipe(load_recipe("sql")))

    def output(source, *overrides):
        return str(default_output(load_recipe(source, list(overrides)), recipe_path(source)))

    # A folder that is no adapter says nothing about whose peer it is.
    assert output(home / "run.yaml", "method=lora") == "outputs/peers/sql/twin"
    (home / "adapter_config.json").write_text("{}")
    assert output(home / "run.yaml", "method=lora") == "outputs/peers/mine/twin"
    assert output(home / "run.yaml") == "outputs/sql"
    assert output("sql", "method=lora") == "outputs/peers/sql/twin"
    # The twin's own run.yaml makes the same twin again.
    twin = Path("outputs/peers/mine/twin")
    twin.mkdir(parents=True)
    (twin / "run.yaml").write_text(dump_recipe(load_recipe("sql", ["method=lora"])))
    (twin / "adapter_config.json").write_text("{}")
    (twin / "provenance.json").write_text('{"method": "lora"}')
    assert output(twin / "run.yaml") == "outputs/peers/mine/twin"
