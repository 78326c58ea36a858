"""Training a prepared run: begin or resume, write the result, remove the checkpoints."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.optimization import get_scheduler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ssft.errors import ConfigError, SSFTError
from ssft.runs.methods import training_method
from ssft.runs.provenance import about_rows, provenance
from ssft.runs.resume import check_may_begin, check_same_run, write_identity
from ssft.runs.run import PreparedRun, Trained, run_folder
from ssft.runs.start import begin_from
from ssft.training.callbacks import MarkComplete, OrderByEpoch, StopInTime, seconds_until
from ssft.training.progress import training_table


def build_trainer(run: PreparedRun) -> Any:
    """The trainer of a prepared run; raises `ConfigError` for settings that the libraries refuse."""
    data = {
        "train_dataset": _trl_columns(run.train),
        "eval_dataset": _trl_columns(run.validation) if len(run.validation) else None,
        "processing_class": run.tokenizer,
    }
    try:
        trainer = training_method(run.recipe.method).build_trainer(run, **data)
        _check_steps(trainer)
    except SSFTError:
        raise
    except Exception as error:  # the libraries raise anything here, from KeyError to ImportError
        raise ConfigError(
            f"the trainer refuses a setting: {type(error).__name__}: {error}; change the key of training or lora that "
            "it is about"
        ) from error
    if run.start is not None and not run.held:
        begin_from(trainer.model, run.start)
    trainer.add_callback(OrderByEpoch())
    return trainer


def _check_steps(trainer: Any) -> None:
    """Let the libraries raise what they would say about optimiser and schedule only when the first step comes."""
    args = trainer.args
    trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
    stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    get_scheduler(args.lr_scheduler_type, stand_in, 0, 1, scheduler_specific_kwargs=args.lr_scheduler_kwargs)


def train(
    run: PreparedRun, output: Path, resume: bool = False, force: bool = False, until: float | None = None
) -> Trained | None:
    """Train and write the result to `output`; only the main process of several returns it.

    `resume` goes on with an interrupted run, `force` lets the result take the place of an earlier one.
    From the time `until` on, by `time.monotonic`, the run ends with the next step, as it is then.

    Raises:
        ConfigError: `output` holds something else, a finished result, or an interrupted run; or the run that `resume`
            would go on with had other settings.
    """
    checkpoint = check_may_begin(run.recipe, output, resume, force)
    if checkpoint is not None:
        check_same_run(run, output)
    trainer = build_trainer(run)
    if trainer.is_world_process_zero():
        write_identity(run, output)
    begin = time.monotonic() - (0 if checkpoint is None else seconds_until(checkpoint))
    trainer.add_callback(MarkComplete(begin))
    if until is not None:
        trainer.add_callback(StopInTime(until))
    with training_table(trainer, run.recipe.name):
        if checkpoint is None or not _load_if_finished(trainer, checkpoint):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        seconds = time.monotonic() - begin
        metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    trained = _write(run, trainer, metrics, seconds, output) if trainer.is_world_process_zero() else None
    # A launcher ends all processes when one of them is gone: none leaves before the result is whole.
    trainer.accelerator.wait_for_everyone()
    return trained


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
    facts |= about_rows(run.recipe.data, run.train, run.validation)
    adapter = run.start if run.adapted is None else run.adapted.active.bundle
    if adapter is not None:
        facts["adapter"] = {"name": adapter.path.name, "weights_sha256": adapter.weights_sha256}
    method = training_method(run.recipe.method)
    method.write(run, trainer, facts, output)
    # The result is whole: the checkpoints have done their work.
    shutil.rmtree(run_folder(output))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return Trained(output, method.product, size, facts)
