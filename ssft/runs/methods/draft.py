"""method=draft: some of the base's layers as a small model of their own, fine-tuned in full.

What is written is an ordinary folder of transformers, with `run.yaml` and `provenance.json`, which
`generate(assistant_model=...)` takes like any other small model.
"""

from pathlib import Path
from typing import Any

from trl import SFTTrainer

from ssft.base.embedded import check_folder
from ssft.recipes.recipe import Recipe
from ssft.runs.folder import whole_folder
from ssft.runs.methods import TrainingMethod, load_checked
from ssft.runs.run import Loaded, PreparedRun
from ssft.training.draft import truncated
from ssft.training.estimate import StepCost, draft_cost


class Method(TrainingMethod):
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

    def write(self, run: PreparedRun, trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        facts = {**provenance, "base": run.fingerprint}
        with whole_folder(output, run.run_yaml, facts, self.may_replace) as folder:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
            run.tokenizer.save_pretrained(folder)
            check_folder(folder)

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        return {"draft": sum(p.numel() for p in trainer.model.parameters()), "trained": trained}

    def cost(self, run: PreparedRun, trainer: Any, batch: dict[str, Any]) -> StepCost:
        return draft_cost(trainer.model, batch)
