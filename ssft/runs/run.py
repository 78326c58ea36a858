"""One training run: from a resolved recipe to what its method writes, an adapter bundle for streams."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ssft.base.backbone import Backbone
from ssft.bundle.format import RUN
from ssft.errors import ConfigError
from ssft.recipes.data import check_lengths, load_dataset_pair
from ssft.recipes.recipe import Recipe, dump_recipe
from ssft.runs.methods import METHODS, Loaded, TrainingMethod
from ssft.runs.provenance import provenance
from ssft.runs.start import begin_from
from ssft.training.callbacks import last_complete_checkpoint, mark_complete_checkpoints
from ssft.training.peer_folder import may_write

ADAPTER = "adapter.sha256"
"""In a run's folder: hash of the adapter that is trained over."""


@dataclass
class PreparedRun:
    """Everything a run needs, checked: building it does the whole work of `--dry-run`."""

    recipe: Recipe
    args: Any
    loaded: Loaded
    train: Dataset
    validation: Dataset
    run_yaml: str

    @property
    def method(self) -> TrainingMethod:
        """What the recipe's `method` stands for."""
        return METHODS[self.recipe.method]

    @property
    def model(self) -> Any:
        """The model that is trained, or trained over."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the base that the model is or comes from."""
        return self.loaded.fingerprint


@dataclass
class Trained:
    """What a run wrote: `product` says what it is, `size_bytes` what its files take."""

    path: Path
    product: str
    size_bytes: int
    provenance: dict[str, Any]


def run_folder(output: Path) -> Path:
    """Where a run keeps its checkpoints: beside the result, so that this holds its own files only."""
    return output.with_name(f"{output.name}.run")


def default_output(recipe: Recipe, source: Path | None = None) -> Path:
    """Where a run writes unless it is told; `source` is the file of the recipe."""
    return METHODS[recipe.method].default_output(recipe, source)


def prepare(recipe: Recipe, output: Path, device: str | None = None) -> PreparedRun:
    """Resolve and check a recipe without training: data, base, lengths, arguments.

    Raises an `SSFTError` for anything that would stop the run later.
    """
    recipe.check()
    # Taken before peft resolves "all-linear" in place.
    run_yaml = dump_recipe(recipe)
    args = recipe.build_training_args(run_folder(output), device)
    train, validation = load_dataset_pair(recipe.data, args.seed)
    if args.eval_strategy != "no" and not len(validation):
        raise ConfigError("eval_strategy is set, but there are no validation rows; set data.validation")
    loaded = METHODS[recipe.method].load(recipe, args, device)
    context = Backbone(loaded.model).context_length
    limit = min(context, args.max_length or context)
    for rows in (train, validation):
        check_lengths(rows, loaded.tokenizer, limit)
    return PreparedRun(recipe, args, loaded, train, validation, run_yaml)


def build_trainer(run: PreparedRun) -> Any:
    """The trainer of a prepared run."""
    validation = _trl_columns(run.validation) if len(run.validation) else None
    trainer = run.method.build_trainer(run, _trl_columns(run.train), validation)
    if run.loaded.start is not None and not run.loaded.held:
        begin_from(trainer.model, run.loaded.start)
    trainer.add_callback(mark_complete_checkpoints())
    return trainer


def train(run: PreparedRun, output: Path, resume: bool = False) -> Trained | None:
    """Train and write the result to `output`; only the main process of several returns it.

    Raises:
        ConfigError: `output` holds something else, or an interrupted run that `resume` was not asked to go on with.
    """
    folder = run_folder(output)
    check_output(run, output)
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"{folder} holds the checkpoint {checkpoint.name} of an interrupted run; go on with it by --resume, or "
            "remove that folder to start anew"
        )
    if checkpoint is not None:
        _check_same_settings(folder, run)
    trainer = build_trainer(run)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN).write_text(run.run_yaml, encoding="utf-8")
        if run.loaded.adapter_sha256:
            (folder / ADAPTER).write_text(run.loaded.adapter_sha256, encoding="utf-8")
    begin = time.time()
    if checkpoint is None or not _load_if_finished(trainer, checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    seconds = time.time() - begin
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    trained = _write(run, trainer, metrics, seconds, output) if trainer.is_world_process_zero() else None
    # A launcher ends all processes when one of them is gone: none leaves before the result is whole.
    trainer.accelerator.wait_for_everyone()
    return trained


def check_output(run: PreparedRun, output: Path) -> None:
    """Raise `ConfigError` unless `output` is free, empty, or an earlier result of the same method."""
    if not may_write(output, lambda old: run.method.may_replace(old, run.recipe.method)):
        product = f"no {run.method.product}"
        if run.recipe.method != "streams":
            product += f" that method={run.recipe.method} wrote"
        raise ConfigError(f"--output {output} exists and is {product}; choose another folder, nothing was changed")


def _load_if_finished(trainer: Any, checkpoint: Path) -> bool:
    """Load a checkpoint of the run's last step; False for any other. The trainer itself would take one step more."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    if state.global_step < state.max_steps:
        return False
    trainer._load_from_checkpoint(str(checkpoint))  # transformers has no public call that loads and does not train
    trainer.state = state
    return True


def _write(run: PreparedRun, trainer: Any, metrics: dict[str, float], seconds: float, output: Path) -> Trained:
    """Write the result, then remove the checkpoints."""
    rows = {"train": len(run.train), "validation": len(run.validation)}
    facts = provenance(run.recipe, trainer, metrics, seconds, rows)
    if (start := run.loaded.start) is not None:
        facts["adapter"] = {"name": start.path.name, "weights_sha256": start.weights_sha256}
    run.method.write(run, trainer, facts, output)
    # The result is whole: the checkpoints have done their work.
    shutil.rmtree(run_folder(output))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return Trained(output, run.method.product, size, facts)


def leave_process_group() -> None:
    """End this process's part of a run of several; exiting inside the group may abort in the group's own threads."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _trl_columns(rows: Dataset) -> Dataset:
    """TRL trains on the completion alone of prompt/completion rows; a chat row becomes one of those."""
    if "messages" not in rows.column_names:
        return rows.select_columns(["prompt", "completion"])
    return rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=rows.column_names,
    )


def _check_same_settings(folder: Path, run: PreparedRun) -> None:
    """A resumed run must be the same run: other settings, or another adapter, would silently change its losses."""
    before = folder / RUN
    if before.exists() and before.read_text(encoding="utf-8") != run.run_yaml:
        raise ConfigError(
            f"{before} differs from the settings given now; resume with the same recipe and overrides, or remove "
            f"{folder} to start anew"
        )
    adapter, now = folder / ADAPTER, run.loaded.adapter_sha256
    if now and (not adapter.exists() or adapter.read_text(encoding="utf-8") != now):
        raise ConfigError(
            f"{adapter}: the run began over another adapter than what adapter={run.recipe.adapter} holds now; put the "
            f"old one back, or remove {folder} to start anew"
        )


def describe(run: PreparedRun) -> dict[str, Any]:
    """What `--dry-run` shows: settings, one tokenised example with its loss mask, parameters, memory and time."""
    from ssft.training.estimate import estimate

    trainer = build_trainer(run)
    example = trainer.train_dataset[0]
    tokens = run.tokenizer.convert_ids_to_tokens(example["input_ids"])
    has_loss = [label != -100 for label in example["labels"]]
    cost = run.method.cost(run, trainer, next(iter(trainer.get_train_dataloader())))
    return {
        "recipe": {"name": run.recipe.name, "method": run.recipe.method, "yaml": run.run_yaml},
        "rows": {"train": len(run.train), "validation": len(run.validation)},
        "example": [{"token": t, "loss": m} for t, m in zip(tokens, has_loss, strict=True)],
        "parameters": run.method.parameters(run, trainer),
        "estimate": estimate(trainer, run.model, cost),
    }
