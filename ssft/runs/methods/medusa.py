"""method=medusa: Medusa heads over the base with a trained adapter, both frozen."""

from pathlib import Path
from typing import Any

from ssft.base.fingerprint import base_fingerprint
from ssft.recipes.recipe import Recipe
from ssft.runs.medusa_folder import check_adapter, lora_sha256, save_medusa
from ssft.runs.methods import TrainingMethod, base_dtype
from ssft.runs.run import Loaded, PreparedRun
from ssft.runtime.loader import load_adapted
from ssft.training.estimate import StepCost, medusa_cost
from ssft.training.medusa import MedusaTrainer


class Method(TrainingMethod):
    """Heads that guess from the state under the LoRA; the run needs the adapter that the recipe names."""

    product = "medusa"
    part = "medusa"

    def default_output(self, recipe: Recipe, source: Path | None = None) -> Path:
        # As `load_adapted` names the adapter.
        return Path("outputs") / "peers" / Path(recipe.adapter).resolve().name / self.part

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        adapted = load_adapted(
            recipe.adapter,
            recipe.base,
            dtype=base_dtype(recipe, args),
            quantization=recipe.quantization,
            device=device,
        )
        check_adapter(adapted)
        fingerprint = base_fingerprint(adapted.model, adapted.tokenizer, recipe.base)
        return Loaded(adapted.model, adapted.tokenizer, fingerprint, adapted, lora_sha256(adapted))

    def build_trainer(self, run: PreparedRun, **data: Any) -> MedusaTrainer:
        return MedusaTrainer(run.loaded.adapted, run.recipe.medusa, run.args, **data)

    def write(self, run: PreparedRun, trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        adapted = run.loaded.adapted
        made_for = {"name": adapted.name, "weights_sha256": adapted.bundle.weights_sha256}
        facts = {**provenance, "base": run.fingerprint, "adapter": made_for}
        save_medusa(output, trainer.heads, adapted, facts, run.run_yaml, run.loaded.adapter_sha256)

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        base = sum(p.numel() for p in run.model.parameters())
        lora = run.loaded.adapted.bundle.lora_parameters
        return {"base": base, "lora": lora, "heads": trainer.heads.count()}

    def cost(self, run: PreparedRun, trainer: Any, batch: dict[str, Any]) -> StepCost:
        heads = trainer.heads
        return medusa_cost(run.model, batch, heads.config.num_heads, heads.count())
