"""What to type after a training: the commands that take what it wrote."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssft.recipes.recipe import Recipe


def next_steps(recipe: Recipe, output: Path) -> list[str]:
    """One command a line, each with what it is for."""
    folder, validation = shlex.quote(str(output)), recipe.data.validation
    prompts = f"--data {shlex.quote(validation)} --limit 3" if Path(validation).is_file() else "--prompt TEXT"
    generate = f"ssft generate {folder} {prompts}"
    if recipe.method == "streams":
        steps = [
            (f"ssft verify {folder} --dtype float32", "is the text that of plain decoding?"),
            (generate, "read some answers"),
            (f"ssft bench {folder} --dtype float32", "how much faster is it?"),
            (f"ssft push {folder} OWNER/NAME", "share it"),
        ]
    elif recipe.method == "lora":
        base = f"--base {shlex.quote(recipe.base)}"
        train = f"data.train={shlex.quote(recipe.data.train)}"
        steps = [
            (f"{generate} {base}", "read some answers"),
            (f"ssft train add_streams adapter={folder} {train}", "make it faster, its text kept"),
        ]
    elif recipe.method == "prune_head":
        steps = [
            (f"ssft verify {folder} --dtype float32 --tree prune_below=0.1", "is the text that of plain decoding?"),
            (f"ssft bench prune {folder} --dtype float32", "does pruning pay here?"),
        ]
    else:
        adapter = shlex.quote(recipe.adapter or "ADAPTER")
        steps = [(f"ssft bench {adapter} --peers {shlex.quote(str(output.parent.parent))}", "compare the two")]
    return [f"  {command}  # {purpose}" for command, purpose in steps]
