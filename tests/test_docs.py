"""README and CONTRIBUTING name files, recipes and commands that exist."""

import re
from pathlib import Path

import pytest

from ssft.cli.main import discover
from ssft.recipes.recipe import recipe_names

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/architecture.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_commands_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    used = set(re.findall(r"`ssft ([a-z]+)", text))
    used |= set(re.findall(r"^(?:\$ )?(?:\S+ -m )?ssft ([a-z]+)", "\n".join(blocks), re.MULTILINE))
    assert used or document != "README.md"
    assert used <= set(discover())


def test_readme_lists_every_command_and_recipe():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in discover():
        assert f"ssft {command}" in text, f"README does not mention `ssft {command}`"
    for recipe in recipe_names():
        assert f"`{recipe}`" in text, f"README does not mention the recipe {recipe}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_paths_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(path).exists(), path
    for path in re.findall(r"`((?:ssft|tests|docs|examples|recipes)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_set_up_commands_are_make_targets():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "test"} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()
