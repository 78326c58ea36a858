"""What a recipe's `method` stands for: which model is loaded, which trainer trains it, what is written."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssft.base.backbone import family_of
from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.format import RUN, Bundle, is_bundle
from ssft.bundle.write import check_replaceable, write_bundle
from ssft.card.notes import carried_over
from ssft.card.write import write_card
from ssft.errors import UnsupportedArchitectureError
from ssft.recipes.recipe import Recipe
from ssft.runs.start import hold, read_start
from ssft.runtime.loader import load_adapted
from ssft.training.estimate import StepCost, draft_cost, lora_cost, medusa_cost, stream_cost
from ssft.training.peer_folder import made_by

if TYPE_CHECKING:
    from ssft.runs.run import PreparedRun


@dataclass
class Loaded:
    """A model to be trained (over), its tokenizer, and the fingerprint of the base that it is or comes from.

    adapted: the model with the adapter that is trained over; start: the adapter that the run begins from, or, if it is
    held, whose LoRA stays as it is; adapter_sha256: hash of the one or the other as it was loaded, which a resumed run
    must find again.
    """

    model: Any
    tokenizer: Any
    fingerprint: dict[str, str]
    adapted: Any = None
    adapter_sha256: str = ""
    start: Bundle | None = None
    held: bool = False


class TrainingMethod(ABC):
    """One value of `method`; what all have in common stands here.

    `product` names what a run writes, `part` the folder below `outputs/peers/<adapter's folder>/` where it goes unless
    `--output` says otherwise; the commands that compare methods look there.
    """

    product = ""
    part = ""

    def default_output(self, recipe: Recipe, source: Path | None = None) -> Path:
        """Where a run of `recipe` writes to; `source` is the file that it comes from.

        A run.yaml says by where it lies which adapter this is a peer of; any other recipe is a peer of the adapter
        that has its name.
        """
        name = recipe.name
        if source is not None and source.name == RUN:
            folder = source.resolve().parent
            again = folder.name == self.part and made_by(folder) == recipe.method  # an earlier result's own run.yaml
            name = folder.parent.name if again else folder.name if is_bundle(folder) else name
        return Path("outputs") / "peers" / name / self.part

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        """Load and check what the run trains; by default the base itself, and the adapter to begin from if any."""
        dtype = _base_dtype(recipe, args)
        model, tokenizer = load_base(recipe.base, dtype=dtype, quantization=recipe.quantization, device=device)
        _check_architecture(model, recipe.base)
        loaded = Loaded(model, tokenizer, base_fingerprint(model, tokenizer, recipe.base))
        if recipe.adapter:
            loaded.start = read_start(recipe.adapter, model, loaded.fingerprint)
            loaded.adapter_sha256 = loaded.start.weights_sha256
        return loaded

    @abstractmethod
    def build_trainer(self, run: "PreparedRun", train: Any, validation: Any) -> Any:
        """The trainer over rows in TRL's columns; `validation` may be None."""

    def may_replace(self, output: Path, method: str) -> bool:
        """Whether the folder `output` is an earlier result of the same kind, which a new one replaces."""
        return made_by(output) == method

    @abstractmethod
    def write(self, run: "PreparedRun", trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        """Write the result; the folder appears whole or not at all."""

    @abstractmethod
    def parameters(self, run: "PreparedRun", trainer: Any) -> dict[str, int]:
        """Parameters by what they belong to."""

    @abstractmethod
    def cost(self, run: "PreparedRun", trainer: Any, batch: dict[str, Any]) -> StepCost:
        """What one micro-batch costs."""


class Streams(TrainingMethod):
    """A LoRA and its speculative streams: an adapter bundle."""

    product = "adapter"

    def default_output(self, recipe: Recipe, source: Path | None = None) -> Path:
        return Path("outputs") / recipe.name

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        loaded = super().load(recipe, args, device)
        args.check_streams(loaded.model.config.num_hidden_layers)
        if loaded.start is not None and args.mode == "lossless":
            hold(loaded.model, loaded.start)
            loaded.held = True
        return loaded

    def build_trainer(self, run: "PreparedRun", train: Any, validation: Any) -> Any:
        from ssft.training.lossless import restrict_to_stream_layers
        from ssft.training.trainer import StreamSFTTrainer

        lora = run.recipe.lora
        if run.args.mode == "lossless":
            lora = restrict_to_stream_layers(lora, run.model, run.args.num_msa_layers)
        return StreamSFTTrainer(
            run.model,
            run.args,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=run.tokenizer,
            peft_config=lora,
        )

    def may_replace(self, output: Path, method: str) -> bool:
        if not is_bundle(output):
            return False
        # What an adapter's folder holds beside its own files would be lost: said before hours are spent.
        check_replaceable(output)
        carried_over(output)
        return True

    def write(self, run: "PreparedRun", trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        bundle = write_bundle(
            output,
            trainer.accelerator.unwrap_model(trainer.model),
            tree=run.recipe.tree,
            base=run.fingerprint,
            run_yaml=run.run_yaml,
            provenance=provenance,
            keep=carried_over(output),
            text_lora=run.loaded.start.text_lora if run.loaded.start is not None and run.loaded.held else None,
            save_dtype=run.recipe.torch_save_dtype(),
        )
        write_card(bundle)

    def parameters(self, run: "PreparedRun", trainer: Any) -> dict[str, int]:
        counts = _base_and_lora(trainer.model)
        streams = sum(p.numel() for p in trainer.streams.parameters())
        return {**counts, "lora": counts["lora"] - streams, "streams": streams}

    def cost(self, run: "PreparedRun", trainer: Any, batch: dict[str, Any]) -> StepCost:
        return stream_cost(trainer.hooks.backbone, batch, trainer.args)


class Twin(TrainingMethod):
    """The same LoRA without streams: a plain peft folder."""

    product = "adapter"
    part = "twin"

    def build_trainer(self, run: "PreparedRun", train: Any, validation: Any) -> Any:
        from ssft.training.plain_lora import build_twin_trainer

        recipe = run.recipe
        return build_twin_trainer(
            run.model,
            run.args,
            train,
            validation,
            run.tokenizer,
            lora=recipe.lora,
            streams=recipe.stream_config(),
        )

    def write(self, run: "PreparedRun", trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        from ssft.training.plain_lora import save_twin

        model = trainer.accelerator.unwrap_model(trainer.model)
        facts = {**provenance, "base": run.fingerprint}
        save_twin(output, model, run.fingerprint["id"], run.run_yaml, facts, run.recipe.torch_save_dtype())

    def parameters(self, run: "PreparedRun", trainer: Any) -> dict[str, int]:
        return _base_and_lora(trainer.model)

    def cost(self, run: "PreparedRun", trainer: Any, batch: dict[str, Any]) -> StepCost:
        return lora_cost(trainer.model, batch)


class Medusa(TrainingMethod):
    """Medusa heads over the base with a trained adapter, both frozen."""

    product = "medusa"
    part = "medusa"

    def default_output(self, recipe: Recipe, source: Path | None = None) -> Path:
        # As `load_adapted` names the adapter.
        return Path("outputs") / "peers" / Path(recipe.adapter).resolve().name / self.part

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        from ssft.training.medusa import check_adapter, lora_sha256

        adapted = load_adapted(
            recipe.adapter,
            recipe.base,
            dtype=_base_dtype(recipe, args),
            quantization=recipe.quantization,
            device=device,
        )
        check_adapter(adapted)
        fingerprint = base_fingerprint(adapted.model, adapted.tokenizer, recipe.base)
        return Loaded(adapted.model, adapted.tokenizer, fingerprint, adapted, lora_sha256(adapted))

    def build_trainer(self, run: "PreparedRun", train: Any, validation: Any) -> Any:
        from ssft.training.medusa_trainer import build_medusa_trainer

        config = run.recipe.medusa
        return build_medusa_trainer(run.loaded.adapted, config, run.args, train, validation, run.tokenizer)

    def write(self, run: "PreparedRun", trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        from ssft.training.medusa import save_medusa

        adapted = run.loaded.adapted
        made_for = {"name": adapted.name, "weights_sha256": adapted.bundle.weights_sha256}
        facts = {**provenance, "base": run.fingerprint, "adapter": made_for}
        save_medusa(output, trainer.heads, adapted, facts, run.run_yaml, run.loaded.adapter_sha256)

    def parameters(self, run: "PreparedRun", trainer: Any) -> dict[str, int]:
        bundle = run.loaded.adapted.bundle
        base = sum(p.numel() for p in run.model.parameters())
        return {"base": base, "lora": bundle.loras[0].parameters, "heads": trainer.heads.count()}

    def cost(self, run: "PreparedRun", trainer: Any, batch: dict[str, Any]) -> StepCost:
        heads = trainer.heads
        return medusa_cost(run.model, batch, heads.config.num_heads, heads.count())


class Draft(TrainingMethod):
    """Some of the base's layers as a small model of their own, fine-tuned in full."""

    product = "draft"
    part = "draft"

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        from ssft.training.draft import truncated

        # Small updates of weights that are trained themselves would be lost in 16 bits; autocast computes in them.
        base, tokenizer = load_base(recipe.base, dtype="float32", device=device)
        _check_architecture(base, recipe.base)
        model = truncated(base, recipe.draft)
        return Loaded(model, tokenizer, base_fingerprint(base, tokenizer, recipe.base))

    def build_trainer(self, run: "PreparedRun", train: Any, validation: Any) -> Any:
        from ssft.training.draft import build_draft_trainer

        return build_draft_trainer(run.model, run.args, train, validation, run.tokenizer)

    def write(self, run: "PreparedRun", trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        from ssft.training.draft import save_draft

        model = trainer.accelerator.unwrap_model(trainer.model)
        save_draft(output, model, run.tokenizer, run.run_yaml, {**provenance, "base": run.fingerprint})

    def parameters(self, run: "PreparedRun", trainer: Any) -> dict[str, int]:
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        return {"draft": sum(p.numel() for p in trainer.model.parameters()), "trained": trained}

    def cost(self, run: "PreparedRun", trainer: Any, batch: dict[str, Any]) -> StepCost:
        return draft_cost(trainer.model, batch)


def _check_architecture(model: Any, name: str) -> None:
    try:
        family_of(model)
    except UnsupportedArchitectureError as error:
        raise UnsupportedArchitectureError(f"base {name!r}: {error}") from error


def _base_dtype(recipe: Recipe, args: Any) -> str:
    """Type of a frozen base; what is trained over it is float32, and autocast computes in args.bf16/fp16."""
    if recipe.dtype != "auto":
        return recipe.dtype
    return "bfloat16" if args.bf16 else "float32"


def _base_and_lora(model: Any) -> dict[str, int]:
    lora = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"base": sum(p.numel() for p in model.parameters()) - lora, "lora": lora}


METHODS: dict[str, TrainingMethod] = {"streams": Streams(), "lora": Twin(), "medusa": Medusa(), "draft": Draft()}
