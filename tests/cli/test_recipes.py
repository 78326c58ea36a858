"""`ssft recipes`: list, show, keys, copy."""

import json

import pytest
from click.testing import CliRunner

from ssft.cli.recipes import command
from ssft.errors import ConfigError
from ssft.recipes.recipe import load_recipe, recipe_names, recipe_path


def run(*args):
    result = CliRunner().invoke(command, list(map(str, args)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list():
    text = run()
    assert all(name in text for name in recipe_names())


def test_list_json():
    recipes = json.loads(run("--json"))["recipes"]
    assert [recipe["name"] for recipe in recipes] == recipe_names()
    assert all(recipe["summary"] for recipe in recipes)


@pytest.mark.parametrize("name", recipe_names())
def test_show(name):
    assert run("show", name) == recipe_path(name).read_text()
    facts = json.loads(run("show", name, "--json"))
    assert (facts["name"], facts["yaml"]) == (name, recipe_path(name).read_text())


def test_show_unknown():
    with pytest.raises(ConfigError, match=r"'sqll' is neither a shipped recipe nor a YAML file; did you mean 'sql'"):
        run("show", "sqll")


def test_keys():
    assert "num_msa_layers" in run("keys", "training")
    keys = json.loads(run("keys", "tree", "--json"))["keys"]
    assert {key["key"]: key["default"] for key in keys}["max_nodes"] == 16
    assert json.loads(run("keys", "lora", "--json"))["section"] == "lora"
    assert json.loads(run("--json", "keys"))["keys"][0]["key"] == "name"


def test_copy(tmp_path):
    target = tmp_path / "new" / "mine.yaml"
    assert "ssft train" in run("copy", "sql", target)
    assert load_recipe(target).data == load_recipe("sql").data
    with pytest.raises(ConfigError, match=r"exists already; .*--force"):
        run("copy", "dialogsum", target)
    assert json.loads(run("copy", "dialogsum", target, "--force", "--json"))["name"] == "dialogsum"
    assert target.read_text() == recipe_path("dialogsum").read_text()


def test_copy_into_a_folder(tmp_path):
    run("copy", "sql", tmp_path)
    assert (tmp_path / "sql.yaml").is_file()


def test_copy_wants_a_yaml_name(tmp_path):
    with pytest.raises(ConfigError, match=r"a recipe is a .yaml file"):
        run("copy", "sql", tmp_path / "mine.txt")
