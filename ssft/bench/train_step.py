"""What a training step with streams costs beside TRL's plain LoRA step on the same batches.

Forward and backward are timed; the optimiser's step, which both share, is not. In lossless mode the step with
streams is also timed as it would be with gradients through all layers, which shows what is saved by taking none below
the insertion layer.
"""

import copy
import tempfile
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trl import SFTTrainer

from ssft.bench.peak_memory import peak_bytes, recorded_peak_bytes
from ssft.bench.rounds import Way, timed_rounds
from ssft.bench.statistics import bootstrap_interval, speedup
from ssft.environment import describe_device, versions
from ssft.errors import DataError
from ssft.results.schema import StepResult
from ssft.runs.prepare import prepare
from ssft.runs.train import build_trainer
from ssft.tables import BYTES, Column, Estimate, Table
from ssft.training.trainer import keep_gradients_on_cpu

PLAIN, STREAMING, UNCUT = "plain", "streaming", "uncut"


def measure_recipe(
    recipe: Any, *, batches: int = 4, rounds: int = 5, seed: int = 0, device: str | None = None, progress: bool = True
) -> StepResult:
    """Build both trainers of a recipe, which puts two copies of the base into memory, and time forward and backward of
    both on the same `batches` batches."""
    with tempfile.TemporaryDirectory(prefix="ssft-bench-") as scratch:
        trainers = build_trainers(recipe, batches, Path(scratch), device)
        loader = trainers[PLAIN].get_train_dataloader()
        # The data may hold fewer batches than were asked for.
        data = list(islice(loader, batches))
        base, args = trainers[PLAIN].model, trainers[STREAMING].args
        cuda = base.device.type == "cuda"
        peaks: dict[str, int | None] = {}

        def way(name: str) -> Way:
            step = partial(_uncut_step, trainers[STREAMING]) if name == UNCUT else partial(_step, trainers[name])

            def warm_up() -> None:  # kernels are chosen and memory is taken here
                for batch in data:
                    step(batch)
                largest = max(data, key=lambda batch: batch["input_ids"].numel())
                run = partial(step, largest)
                peaks[name] = peak_bytes(base.device, run) if cuda else recorded_peak_bytes(run)

            return Way(step, data, warm_up)

        names = [*trainers, *[UNCUT] * trainers[STREAMING].cut]
        timed = timed_rounds({name: way(name) for name in names}, rounds, seed, progress)
    times = {name: np.array(done.seconds) for name, done in timed.items()}
    pair = times[STREAMING], times[PLAIN]
    precision = "4bit" if recipe.quantization == "4bit" else str(base.dtype).removeprefix("torch.")
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else precision
    return StepResult(
        recipe=recipe.name,
        device=describe_device(base.device),
        precision=precision if autocast == precision else f"{precision}, computed in {autocast}",
        threads=torch.get_num_threads(),
        num_streams=args.num_streams,
        num_msa_layers=args.num_msa_layers,
        batch_size=args.per_device_train_batch_size,
        batches=len(data),
        rounds=rounds,
        tokens=float(np.mean([int(batch["attention_mask"].sum()) for batch in data])),
        completion_tokens=float(np.mean([int((batch["labels"] != -100).sum()) for batch in data])),
        seconds={name: float(np.median(values)) for name, values in times.items()},
        ratio=speedup(*pair),
        ratio_interval=bootstrap_interval(*pair, seed),
        peak_bytes=peaks,
        versions=versions(),
    )


def build_trainers(recipe: Any, batches: int, scratch: Path, device: str | None = None) -> dict[str, Any]:
    """TRL's trainer and the one with streams, each over its own copy of the base.

    TRL patches the forward of its model and streams change its attention, so the two cannot share one.

    Raises:
        DataError: fewer training rows than `batches` need.
    """
    size = recipe.build_training_args(scratch, device).per_device_train_batch_size
    needed = batches * size
    small = replace(
        recipe,
        data=replace(recipe.data, max_train_rows=needed, max_validation_rows=1),
        training={**recipe.training, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False},
    )
    # Copied, because PEFT resolves "all-linear" in place.
    prepared = {name: prepare(copy.deepcopy(small), scratch / name, device) for name in (PLAIN, STREAMING)}
    rows = len(prepared[PLAIN].train)
    if rows < needed:
        raise DataError(
            f"data.train={recipe.data.train} has {rows} rows, {batches} batches of {size} need {needed}; give fewer "
            "--batches or a smaller training.per_device_train_batch_size"
        )
    streaming, run = build_trainer(prepared[STREAMING]), prepared[PLAIN]
    # The very rows that the other trainer has tokenised.
    plain: Any = SFTTrainer(
        run.model,
        run.args,
        train_dataset=streaming.train_dataset,
        processing_class=run.tokenizer,
        peft_config=run.recipe.lora,
    )
    keep_gradients_on_cpu(plain.model)
    for trainer in (plain, streaming):
        _make_ready(trainer)
    return {PLAIN: plain, STREAMING: streaming}


def _make_ready(trainer: Any) -> None:
    """What `train()` does before its first step."""
    if trainer.args.activation_checkpointing:
        settings = dict(trainer.args.activation_checkpointing_kwargs or {})
        places = {key: settings.pop(key) for key in ("every_n_layers", "offload") if key in settings}
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings or None, **places)
    trainer.model_wrapped = trainer.accelerator.prepare(trainer.model)
    trainer.current_gradient_accumulation_steps = 1


def step_table(result: StepResult) -> Table:
    """One row per trainer, under a line that says what was measured, on what."""
    title = (
        f"{result.recipe}: γ={result.num_streams}, N_s={result.num_msa_layers}, {result.batches} batches of "
        f"{result.batch_size} ({result.tokens:.0f} tokens, {result.completion_tokens:.0f} with loss), "
        f"{result.rounds} rounds, {result.precision} on {result.device}"
    )
    ratio = Estimate(result.ratio, result.ratio_interval)
    labels = [(PLAIN, "TRL SFTTrainer, LoRA", 1), (STREAMING, "StreamSFTTrainer", ratio)]
    if UNCUT in result.seconds:
        labels.append((UNCUT, "the same, gradients through all layers", result.seconds[UNCUT] / result.seconds[PLAIN]))
    rows = [[label, 1e3 * result.seconds[name], ratios, result.peak_bytes[name]] for name, label, ratios in labels]
    columns = [Column("ms per step", ",.1f"), Column("ratio (95 % interval)", ".2f"), Column("peak memory", BYTES)]
    return Table(title, ["trainer", *columns], rows)


def _uncut_step(trainer: Any, batch: dict[str, Any]) -> None:
    """`_step` of a lossless trainer with gradients down to the embeddings."""
    handle = trainer.model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_(True))
    trainer.cut = False
    try:
        _step(trainer, batch)
    finally:
        trainer.cut = True
        handle.remove()


def _step(trainer: Any, batch: dict[str, Any]) -> None:
    """One forward and backward; the gradients are dropped."""
    inputs = dict(batch)
    trainer.training_step(trainer.model_wrapped, inputs, num_items_in_batch=(inputs["labels"] != -100).sum())
    trainer.model_wrapped.zero_grad(set_to_none=True)
    if trainer.model.device.type == "cuda":
        torch.cuda.synchronize()
