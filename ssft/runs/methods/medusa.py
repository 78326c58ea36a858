"""method=medusa: Medusa heads over the base with a trained adapter, both frozen."""

from pathlib import Path
from typing import Any

from ssft.recipes.recipe import Recipe
from ssft.runs.medusa_folder import lora_sha256, write_heads
from ssft.runs.methods import adapted_of
from ssft.runs.methods._peer import Peer
from ssft.runs.run import Loaded, PreparedRun
from ssft.training.medusa import MedusaTrainer


class Method(Peer):
    """Heads that guess from the main state, under the LoRA of the text if there is one.

    The run needs the adapter that the recipe names."""

    product = "medusa"
    part = "medusa"

    def default_output(self, recipe: Recipe, source: Path | None) -> Path:
        # As `load_adapted` names the adapter.
        return Path("outputs") / "peers" / Path(recipe.adapter).resolve().name / self.part

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        adapted = adapted_of(recipe, args, device)
        return Loaded(adapted.model, adapted.tokenizer, adapted.bank.fingerprint, adapted, lora_sha256(adapted))

    def build_trainer(self, run: PreparedRun, **data: Any) -> MedusaTrainer:
        return MedusaTrainer(run.adapted, run.recipe.medusa, run.args, **data)

    def fill(self, folder: Path, run: PreparedRun, trainer: Any) -> None:
        write_heads(folder, trainer.heads, run.adapted, run.adapter_sha256)

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        base = sum(p.numel() for p in run.model.parameters())
        lora = run.adapted.active.bundle.text_lora
        return {"base": base, "lora": lora.parameters if lora else 0, "heads": trainer.heads.count()}
