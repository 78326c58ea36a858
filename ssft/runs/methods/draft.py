"""method=draft: some of the base's layers as a small model of their own, fine-tuned in full.

What is written is an ordinary folder of transformers, with `run.yaml` and `provenance.json`, which
`generate(assistant_model=...)` takes like any other small model.
"""

from pathlib import Path
from typing import Any

from trl import SFTTrainer

from ssft.base.embedded import check_folder
from ssft.recipes.recipe import Recipe
from ssft.runs.methods import load_checked
from ssft.runs.methods._peer import Peer
from ssft.runs.run import Loaded, PreparedRun
from ssft.training.draft import truncated


class Method(Peer):
    """A draft model for two-model speculation where no smaller sibling of the base exists."""

    product = "draft"
    part = "draft"

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        # Small updates of weights that are trained themselves would be lost in 16 bits; autocast computes in them.
        loaded = load_checked(recipe, "float32", device)
        loaded.model = truncated(loaded.model, recipe.draft)
        return loaded

    def build_trainer(self, run: PreparedRun, **data: Any) -> SFTTrainer:
        return SFTTrainer(run.model, run.args, **data)

    def fill(self, folder: Path, run: PreparedRun, trainer: Any) -> None:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
        run.tokenizer.save_pretrained(folder)
        check_folder(folder)

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        return {"draft": sum(p.numel() for p in trainer.model.parameters()), "trained": trained}
