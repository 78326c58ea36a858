"""From a recipe to a prepared run: data, base and settings are loaded and checked before any training."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ssft.base.backbone import Backbone
from ssft.base.load import eos_token_ids
from ssft.errors import ConfigError
from ssft.recipes.data import load_row_pair
from ssft.recipes.lengths import fit_lengths
from ssft.recipes.recipe import Recipe, dump_recipe
from ssft.runs.lora_settings import check_settings
from ssft.runs.methods import training_method
from ssft.runs.run import PreparedRun, run_folder
from ssft.runs.train import build_trainer
from ssft.training.estimate import estimate
from ssft.training.loss import IGNORE


def default_output(recipe: Recipe, source: Path | None = None) -> Path:
    """Where a run writes unless it is told; `source` is the file of the recipe."""
    return training_method(recipe.method).default_output(recipe, source)


def prepare(recipe: Recipe, output: Path, device: str | None = None) -> PreparedRun:
    """Resolve and check a recipe without training: data, base, lengths, arguments.

    Raises an `SSFTError` for anything that would stop the run later.
    """
    recipe.check()
    check_settings(recipe.lora)
    # Taken before peft resolves "all-linear" in place.
    run_yaml = dump_recipe(recipe)
    args = recipe.build_training_args(run_folder(output), device)
    parts = load_row_pair(recipe.data, args.seed)
    if args.eval_strategy != "no" and not parts[1].rows:
        raise ConfigError("eval_strategy is set, but there are no validation rows; set data.validation")
    loaded = training_method(recipe.method).load(recipe, args, device)
    context = Backbone(loaded.model).context_length
    args.max_length = min(context, args.max_length or context)  # where TRL cuts what data.long_rows=cut keeps
    for name, part in zip(("train", "validation"), parts, strict=True):
        part.rows, long = fit_lengths(part.rows, loaded.tokenizer, args.max_length, recipe.data.long_rows, name)
        part.note += f"; {long}" if long else ""
    train, validation = (part.dataset() for part in parts)
    loaded.told[:0] = [part.note for part in parts]
    return PreparedRun(**vars(loaded), recipe=recipe, args=args, train=train, validation=validation, run_yaml=run_yaml)


def describe(run: PreparedRun) -> dict[str, Any]:
    """What a dry run shows: settings, one tokenised example with its loss mask, what carries the loss,
    parameters, cost, and advice. Raises `ConfigError` where the end of an answer would not be learned."""
    method, trainer = training_method(run.recipe.method), build_trainer(run)
    example = trainer.train_dataset[0]
    cost = estimate(trainer)
    learned = learned_tokens(trainer, eos_token_ids(run.model, run.tokenizer))
    tokens = run.tokenizer.convert_ids_to_tokens(example["input_ids"])
    return {
        "recipe": {"name": run.recipe.name, "method": run.recipe.method, "yaml": run.run_yaml},
        "rows": {"train": len(run.train), "validation": len(run.validation)},
        "example": [
            {"token": token, "loss": label != IGNORE} for token, label in zip(tokens, example["labels"], strict=True)
        ],
        "learned": learned,
        "parameters": method.parameters(run, trainer),
        "estimate": cost,
        "advice": method.advice(run, cost),
    }


def learned_tokens(trainer: Any, ends: Collection[int]) -> dict[str, Any]:
    """What carries the loss in the training rows: tokens per row, and which of the tokens `ends` ends a text or turn.

    Raises:
        ConfigError: the end of a row that was not cut is not learned: streams would never draft it.
    """
    rows = trainer.train_dataset
    count, found = 0, Counter[int]()
    for number, row in enumerate(rows, start=1):
        own = [token for token in row["labels"] if token != IGNORE]
        count += len(own)
        last = next((token for token in reversed(own) if token in ends), None)
        if last is None and ends and len(row["input_ids"]) < trainer.args.max_length:
            names = ", ".join(trainer.processing_class.convert_ids_to_tokens(sorted(ends)))
            raise ConfigError(
                f"training row {number}: the token that ends an answer ({names}) is not among its {len(own)} tokens "
                "with loss, so that its end would not be learned; give the base a chat template that writes this token "
                "behind an answer, or set the base's eos_token to the one that the template writes"
            )
        found.update([] if last is None else [last])
    end = trainer.processing_class.convert_ids_to_tokens([found.most_common(1)[0][0]])[0] if found else "none"
    return {"tokens_per_row": round(count / len(rows), 1), "end_of_turn": end, "rows_with_end": found.total()}
