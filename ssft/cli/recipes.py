"""List, show and copy the shipped training recipes."""

from __future__ import annotations

from pathlib import Path

import click

from ssft.cli._options import json_option, print_json, table
from ssft.errors import ConfigError
from ssft.files import write_output
from ssft.recipes.recipe import SECTIONS, TOP, describe_keys, recipe_head, recipe_names, recipe_path, recipe_summary

KEY = ("key", "type", "default", "help")


@click.group(invoke_without_command=True)
@json_option()
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the shipped training recipes, show one or copy one to a file of your own.

    `ssft train` takes a recipe by name or by file.
    """
    if ctx.invoked_subcommand is not None:
        return
    recipes = [
        {"name": name, "summary": recipe_summary(recipe_path(name)), "path": recipe_path(name)}
        for name in recipe_names()
    ]
    if as_json:
        print_json({"recipes": recipes})
    else:
        table([[recipe["name"], recipe["summary"]] for recipe in recipes], ["name", "summary"])


@command.command("show")
@click.argument("name")
@json_option()
def show_command(name: str, as_json: bool) -> None:
    """Print the recipe NAME as it stands in its file."""
    path = recipe_path(name)
    text = path.read_text(encoding="utf-8")
    if as_json:
        print_json({"name": name, "path": path, "head": recipe_head(path), "yaml": text})
    else:
        click.echo(text, nl=False)


@command.command("keys")
@click.argument("section", type=click.Choice(SECTIONS), required=False)
@json_option()
def keys_command(section: str | None, as_json: bool) -> None:
    """List the keys of SECTION, or those at the top of the file, with their types, defaults and meanings."""
    keys = describe_keys(section or TOP)
    if as_json:
        print_json({"section": section, "keys": [dict(zip(KEY, map(_plain, key), strict=True)) for key in keys]})
    else:
        table([[key, kind, repr(default), text] for key, kind, default, text in keys], KEY)


def _plain(value: object) -> object:
    """A default as a value of JSON; what JSON cannot say becomes text."""
    return value if isinstance(value, str | int | float | list | dict | None) else str(value)


@command.command("copy")
@click.argument("name")
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DEST if it exists.")
@json_option()
def copy_command(name: str, destination: Path, force: bool, as_json: bool) -> None:
    """Copy the recipe NAME to the file DEST (or into the folder DEST), to be edited and given to `ssft train`."""
    source = recipe_path(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{target}: a recipe is a .yaml file; give a name that ends so")
    if target.exists() and not force:
        raise ConfigError(f"{target} exists already; choose another name, or overwrite it with --force")
    write_output(target, source.read_bytes(), "DEST")
    if as_json:
        print_json({"name": name, "path": target})
    else:
        click.echo(f"copied {name} to {target}; train with: ssft train {target}")
