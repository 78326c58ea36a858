"""One training run: from a resolved recipe to an adapter bundle."""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ssft._version import __version__
from ssft.adapters.bundle import RUN, Bundle, is_bundle, write_bundle
from ssft.adapters.card import write_card
from ssft.adapters.loader import describe_device
from ssft.bases import base_fingerprint, load_base
from ssft.data import check_lengths, load_dataset_pair
from ssft.errors import ConfigError, UnsupportedArchitectureError
from ssft.recipes import Recipe, dump_recipe
from ssft.streams.families import Backbone
from ssft.training.callbacks import last_complete_checkpoint, mark_complete_checkpoints

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate")


@dataclass
class PreparedRun:
    """Everything a run needs, checked: building it does the whole work of `--dry-run`."""

    recipe: Recipe
    args: Any
    model: Any
    tokenizer: Any
    train: Dataset
    validation: Dataset
    fingerprint: dict[str, str]
    run_yaml: str


def run_folder(output: Path) -> Path:
    """Where a run keeps its checkpoints: beside the bundle, so that the bundle holds its own files only."""
    return output.with_name(f"{output.name}.run")


def prepare(recipe: Recipe, output: Path, device: str | None = None) -> PreparedRun:
    """Resolve and check a recipe without training: data, base, lengths, arguments.

    Raises an `SSFTError` for anything that would stop the run later.
    """
    recipe.check()
    # Taken before peft resolves "all-linear" in place.
    run_yaml = dump_recipe(recipe)
    args = recipe.build_training_args(run_folder(output), device)
    train, validation = load_dataset_pair(recipe.data, args.seed)
    # LoRA and streams are trained in float32 over the base; autocast computes in args.bf16/fp16.
    dtype = recipe.dtype
    if dtype == "auto":
        dtype = "bfloat16" if args.bf16 else "float32"
    model, tokenizer = load_base(recipe.base, dtype=dtype, quantization=recipe.quantization, device=device)
    try:
        context = Backbone(model).context_length
    except UnsupportedArchitectureError as error:
        raise UnsupportedArchitectureError(f"base {recipe.base!r}: {error}") from error
    args.check_streams(model.config.num_hidden_layers)
    limit = min(context, args.max_length or context)
    for rows in (train, validation):
        check_lengths(rows, tokenizer, limit)
    fingerprint = base_fingerprint(model, tokenizer, recipe.base)
    return PreparedRun(recipe, args, model, tokenizer, train, validation, fingerprint, run_yaml)


def build_trainer(run: PreparedRun) -> Any:
    """The trainer of a prepared run."""
    from ssft.training.lossless import restrict_to_stream_layers
    from ssft.training.trainer import StreamSFTTrainer

    has_validation = len(run.validation) > 0
    if run.args.eval_strategy != "no" and not has_validation:
        raise ConfigError("eval_strategy is set, but there are no validation rows; set data.validation")
    lora = run.recipe.lora
    if run.args.mode == "lossless":
        lora = restrict_to_stream_layers(lora, run.model, run.args.num_msa_layers)
    return StreamSFTTrainer(
        run.model,
        run.args,
        train_dataset=_trl_columns(run.train),
        eval_dataset=_trl_columns(run.validation) if has_validation else None,
        processing_class=run.tokenizer,
        peft_config=lora,
        callbacks=[mark_complete_checkpoints()],
    )


def train(run: PreparedRun, output: Path, resume: bool = False) -> Bundle | None:
    """Train and write the bundle to `output`; only the main process of several returns it.

    Raises:
        ConfigError: `output` holds something else, or an interrupted run that `resume` was not asked to go on with.
    """
    folder = run_folder(output)
    if output.exists() and not is_bundle(output) and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output} exists and is no adapter; choose another folder, nothing was changed")
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"{folder} holds the checkpoint {checkpoint.name} of an interrupted run; go on with it by --resume, or "
            "remove that folder to start anew"
        )
    if checkpoint is not None:
        _check_same_settings(folder, run.run_yaml)
    trainer = build_trainer(run)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN).write_text(run.run_yaml, encoding="utf-8")
    begin = time.time()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    seconds = time.time() - begin
    metrics = trainer.evaluate() if trainer.eval_dataset is not None else {}
    bundle = _write(run, trainer, metrics, seconds, output) if trainer.is_world_process_zero() else None
    # A launcher ends all processes when one of them is gone: none leaves before the bundle is whole.
    trainer.accelerator.wait_for_everyone()
    return bundle


def _write(run: PreparedRun, trainer: Any, metrics: dict[str, float], seconds: float, output: Path) -> Bundle:
    """Write the bundle and its card, then remove the checkpoints."""
    provenance = _provenance(run, trainer, metrics, seconds)
    bundle = write_bundle(
        output,
        trainer.accelerator.unwrap_model(trainer.model),
        tree=run.recipe.tree,
        base=run.fingerprint,
        run_yaml=run.run_yaml,
        provenance=provenance,
    )
    write_card(bundle)
    # The bundle is whole: the checkpoints have done their work.
    shutil.rmtree(run_folder(output))
    return bundle


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


def _check_same_settings(folder: Path, run_yaml: str) -> None:
    """A resumed run must be the same run: other settings would silently change its losses."""
    before = folder / RUN
    if before.exists() and before.read_text(encoding="utf-8") != run_yaml:
        raise ConfigError(
            f"{before} differs from the settings given now; resume with the same recipe and overrides, or remove "
            f"{folder} to start anew"
        )


def _provenance(run: PreparedRun, trainer: Any, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
    history = [{k: v for k, v in entry.items() if k != "total_flos"} for entry in trainer.state.log_history]
    return {
        "ssft": __version__,
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "commit": _commit(),
        "device": describe_device(trainer.args.device),
        "processes": trainer.args.world_size,
        "train_seconds": round(seconds, 1),
        "train_rows": len(run.train),
        "validation_rows": len(run.validation),
        "data": {part: _describe_source(getattr(run.recipe.data, part)) for part in ("train", "validation")},
        "steps": trainer.state.global_step,
        "metrics": {key: value for key, value in metrics.items() if isinstance(value, int | float)},
        "history": history,
    }


def _describe_source(source: str) -> dict[str, str]:
    """A file's name and hash, or the name of a hub dataset or generator."""
    path = Path(source) if source else None
    if path is None or not path.is_file():
        return {"name": source}
    return {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _commit() -> str:
    """Commit of the source tree that ran, empty outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", os.fspath(root), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def describe(run: PreparedRun) -> dict[str, Any]:
    """What `--dry-run` shows: settings, one tokenised example with its loss mask, parameters, memory and time."""
    from ssft.training.estimate import estimate

    trainer = build_trainer(run)
    example = trainer.train_dataset[0]
    tokens = run.tokenizer.convert_ids_to_tokens(example["input_ids"])
    masked = [label != -100 for label in example["labels"]]
    trainable = {name: p.numel() for name, p in trainer.model.named_parameters() if p.requires_grad}
    streams = sum(p.numel() for p in trainer.streams.parameters())
    return {
        "recipe": {"name": run.recipe.name, "yaml": run.run_yaml},
        "rows": {"train": len(run.train), "validation": len(run.validation)},
        "example": [{"token": t, "loss": m} for t, m in zip(tokens, masked, strict=True)],
        "parameters": {
            "base": sum(p.numel() for n, p in trainer.model.named_parameters() if n not in trainable),
            "lora": sum(trainable.values()) - streams,
            "streams": streams,
        },
        "estimate": estimate(trainer),
    }
