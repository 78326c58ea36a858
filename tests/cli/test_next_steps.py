"""The commands that a training ends with are ones that ssft takes, with what it wrote."""

import shlex

import click
import pytest
from tiny_base import rows, save_rows

from ssft.cli._next_steps import next_steps
from ssft.cli.main import cli
from ssft.recipes.recipe import load_recipe


def words(line):
    command, _, purpose = line.partition("  # ")
    assert purpose
    return shlex.split(command)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_rows(tmp_path / "validation.jsonl", rows(2))
    (tmp_path / "peers" / "mine").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "overrides", "commands"),
    [
        ("quickstart", [], ["verify", "generate", "bench", "push"]),
        ("quickstart", ["data.validation=validation.jsonl"], ["verify", "generate", "bench", "push"]),
        ("quickstart", ["method=lora"], ["generate", "train"]),
        ("peers/medusa_sql", ["adapter=outputs/sql"], ["bench"]),
        ("peers/draft_sql", [], ["bench"]),
    ],
)
def test_they_are_commands_of_ssft(recipe, overrides, commands, here):
    lines = [words(line) for line in next_steps(load_recipe(recipe, overrides), here / "peers" / "mine" / "x y")]
    assert [line[:2] for line in lines] == [["ssft", command] for command in commands]
    for line in lines:
        command, context = cli, cli.make_context("ssft", line[1:])
        while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
            name, command, rest = command.resolve_command(context, rest)
            context = command.make_context(name, rest, parent=context)
        if "overrides" in context.params:
            load_recipe(context.params["recipe"], context.params["overrides"])


def test_they_name_the_folder_and_the_rows(here):
    told = next_steps(load_recipe("quickstart", ["data.validation=validation.jsonl"]), here / "mine")
    assert all(str(here / "mine") in line for line in told)
    assert "--data validation.jsonl --limit 3" in told[1]
    assert "--prompt TEXT" in next_steps(load_recipe("quickstart"), here / "mine")[1]


def test_a_plain_lora_is_told_how_to_get_streams(here):
    told = next_steps(load_recipe("sql", ["method=lora", "data.train=train.jsonl"]), here / "mine")
    assert f"ssft train add_streams adapter={here / 'mine'} data.train=train.jsonl" in told[-1]
