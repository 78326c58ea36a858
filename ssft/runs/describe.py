"""What `ssft train --dry-run` shows of a run."""

from typing import Any

from ssft.runs.methods import training_method
from ssft.runs.run import PreparedRun
from ssft.runs.train import build_trainer
from ssft.training.estimate import estimate


def describe(run: PreparedRun) -> dict[str, Any]:
    """Settings, one tokenised example with its loss mask, parameters, memory and time; nothing is trained."""
    method, trainer = training_method(run.recipe.method), build_trainer(run)
    example = trainer.train_dataset[0]
    tokens = run.tokenizer.convert_ids_to_tokens(example["input_ids"])
    has_loss = [label != -100 for label in example["labels"]]
    cost = method.cost(run, trainer, next(iter(trainer.get_train_dataloader())))
    return {
        "recipe": {"name": run.recipe.name, "method": run.recipe.method, "yaml": run.run_yaml},
        "rows": {"train": len(run.train), "validation": len(run.validation)},
        "example": [{"token": t, "loss": m} for t, m in zip(tokens, has_loss, strict=True)],
        "parameters": method.parameters(run, trainer),
        "estimate": estimate(trainer, run.model, cost),
    }
