"""method=prune_head: a prune head for a trained adapter with streams, written as that adapter with the head in it."""

from pathlib import Path
from typing import Any

from ssft.bundle.write import write_with_prune_head
from ssft.card.notes import carried_over
from ssft.card.write import write_card
from ssft.recipes.recipe import Recipe
from ssft.runs.methods import adapted_of
from ssft.runs.methods._adapter import AdapterMethod
from ssft.runs.run import Loaded, PreparedRun
from ssft.training.prune_head import PruneHeadTrainer


class Method(AdapterMethod):
    """The prune head alone; what the recipe says of LoRA, streams and tree stands as the adapter has it."""

    def default_output(self, recipe: Recipe, source: Path | None) -> Path:
        return Path("outputs") / f"{Path(recipe.adapter).resolve().name}-pruning"

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        adapted = adapted_of(recipe, args, device)
        bundle = adapted.active.bundle
        assert bundle is not None
        told = [f"a prune head for {recipe.adapter}, whose LoRA, streams and tree stay as they are"]
        return Loaded(
            adapted.model, adapted.tokenizer, adapted.bank.fingerprint, adapted, bundle.weights_sha256, told=told
        )

    def build_trainer(self, run: PreparedRun, **data: Any) -> PruneHeadTrainer:
        return PruneHeadTrainer(run.adapted, int(run.recipe.training.get("prune_head_rank", 0)), run.args, **data)

    def write(self, run: PreparedRun, trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        told = {key: value for key, value in provenance.items() if key not in ("method", "adapter")}
        bundle = write_with_prune_head(
            output,
            run.adapted.active.bundle,
            trainer.head,
            provenance={**told, "recipe": run.run_yaml},
            keep=carried_over(output),
        )
        write_card(bundle)

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        base = sum(p.numel() for p in run.model.parameters())
        lora = sum(part.parameters for part in run.adapted.active.bundle.loras)
        return {"base": base, "lora": lora, "prune_head": trainer.head.count()}
