"""method=streams: a LoRA and its speculative streams, written as an adapter bundle with its card."""

from pathlib import Path
from typing import Any

from ssft.bundle.write import write_bundle
from ssft.card.notes import carried_over
from ssft.card.write import write_card
from ssft.recipes.recipe import Recipe
from ssft.runs.methods._adapter import AdapterMethod
from ssft.runs.run import Loaded, PreparedRun
from ssft.runs.start import hold
from ssft.training.advice import Advice, advise
from ssft.training.lossless import restrict_to_stream_layers
from ssft.training.trainer import StreamSFTTrainer


class Method(AdapterMethod):
    """The adapter itself, over a LoRA that is held where `mode` is lossless and an adapter was given."""

    def default_output(self, recipe: Recipe, source: Path | None) -> Path:
        return Path("outputs") / recipe.name

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        loaded = super().load(recipe, args, device)
        asked, layers = args.num_msa_layers, loaded.model.config.num_hidden_layers
        args.settle_layers(layers)
        if args.num_msa_layers != asked:
            loaded.told.append(f"streams: in the top {args.num_msa_layers} of {layers} layers (num_msa_layers={asked})")
        if loaded.start is not None and args.mode == "lossless":
            hold(loaded.model, loaded.start)
            loaded.held = True
        return loaded

    def build_trainer(self, run: PreparedRun, **data: Any) -> StreamSFTTrainer:
        lora = run.recipe.lora
        if run.args.mode == "lossless":
            lora = restrict_to_stream_layers(lora, run.model, run.args.num_msa_layers)
        return StreamSFTTrainer(run.model, run.args, peft_config=lora, tree=run.recipe.tree, **data)

    def write(self, run: PreparedRun, trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        bundle = write_bundle(
            output,
            trainer.accelerator.unwrap_model(trainer.model),
            tree=run.recipe.tree,
            base=run.fingerprint,
            run_yaml=run.run_yaml,
            provenance=provenance,
            keep=carried_over(output),
            text_lora=run.start.text_lora if run.start is not None and run.held else None,
            draft_vocabulary=trainer.vocabulary,
            save_dtype=run.recipe.torch_save_dtype(),
        )
        write_card(bundle)

    def advice(self, run: PreparedRun, cost: dict[str, float]) -> list[Advice]:
        layers = run.model.config.num_hidden_layers
        return advise(run.args, run.recipe.lora.r, layers, len(run.train), cost)

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        counts = super().parameters(run, trainer)
        streams = sum(p.numel() for p in trainer.streams.parameters())
        return {**counts, "lora": counts["lora"] - streams, "streams": streams}
