"""What a training step with streams costs beside TRL's plain LoRA step on the same batches.

Forward and backward are timed; the optimiser's step, which both share, is not. Rounds are paired: every batch goes
through both trainers, one right after the other, in random order.
"""

import copy
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from trl import SFTTrainer

from ssft.bench.measure import versions
from ssft.bench.result import StepResult
from ssft.bench.statistics import bootstrap_interval, round_ratios, spread
from ssft.environment import describe_device
from ssft.errors import DataError
from ssft.runs.run import build_trainer, prepare
from ssft.training.trainer import keep_gradients_on_cpu

PLAIN, STREAMING = "plain", "streaming"


def measure_recipe(
    recipe: Any, *, batches: int = 4, rounds: int = 5, seed: int = 0, device: str | None = None, progress: bool = True
) -> StepResult:
    """Build both trainers of a recipe, which puts two copies of the base into memory, and compare their steps."""
    with tempfile.TemporaryDirectory(prefix="ssft-bench-") as scratch:
        trainers = build_trainers(recipe, batches, Path(scratch), device)
        result = compare_steps(trainers, batches, rounds, seed, progress)
    result.recipe = recipe.name
    base, args = trainers[PLAIN].model, trainers[PLAIN].args
    result.device = describe_device(base.device)
    result.precision = "4bit" if recipe.quantization == "4bit" else str(base.dtype).removeprefix("torch.")
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else result.precision
    if autocast != result.precision:
        result.precision += f", computed in {autocast}"
    return result


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


def compare_steps(
    trainers: dict[str, Any], batches: int, rounds: int, seed: int = 0, progress: bool = True
) -> StepResult:
    """Time forward and backward of both trainers on the plain trainer's first batches."""
    loader = trainers[PLAIN].get_train_dataloader()
    # The data may hold fewer batches than were asked for.
    data = [batch for batch, _ in zip(loader, range(batches), strict=False)]
    args = trainers[STREAMING].args
    cuda = trainers[PLAIN].model.device.type == "cuda"
    times: dict[str, list[list[float]]] = {name: [] for name in trainers}
    peaks: dict[str, int] = dict.fromkeys(trainers, 0)
    order = random.Random(seed)
    for name, trainer in trainers.items():
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for batch in data:  # warm-up, not counted: kernels are chosen and memory is taken here
            _step(trainer, batch)
        peaks[name] = torch.cuda.max_memory_allocated() if cuda else 0
    with tqdm(total=rounds * len(data), unit="batch", delay=2, disable=None if progress else True, leave=False) as bar:
        for _ in range(rounds):
            seconds: dict[str, list[float]] = {name: [] for name in trainers}
            for batch in data:
                for name in order.sample(list(trainers), len(trainers)):
                    seconds[name].append(_step(trainers[name], batch))
                bar.update()
            for name in trainers:
                times[name].append(seconds[name])
    plain, streaming = np.array(times[PLAIN]), np.array(times[STREAMING])
    return StepResult(
        recipe="",
        device=str(trainers[PLAIN].model.device),
        precision="",
        threads=torch.get_num_threads(),
        num_streams=args.num_streams,
        num_msa_layers=args.num_msa_layers,
        batch_size=args.per_device_train_batch_size,
        batches=len(data),
        rounds=rounds,
        tokens=_mean(int(batch["attention_mask"].sum()) for batch in data),
        completion_tokens=_mean(int((batch["labels"] != -100).sum()) for batch in data),
        seconds={name: float(np.median(np.array(values))) for name, values in times.items()},
        ratio=float(np.median(round_ratios(streaming, plain))),
        ratio_interval=bootstrap_interval(streaming, plain, seed),
        ratio_spread=spread(round_ratios(streaming, plain)),
        peak_bytes=peaks if cuda else None,
        versions=versions(),
    )


def table_rows(result: StepResult) -> list[list[Any]]:
    """One row per trainer, under the headers trainer, ms per step, ratio, peak memory."""
    interval = "" if result.ratio_interval is None else " ({:.2f} - {:.2f})".format(*result.ratio_interval)
    ratios = {PLAIN: "1.00", STREAMING: f"{result.ratio:.2f}{interval}"}
    rows: list[list[Any]] = []
    for name, label in ((PLAIN, "TRL SFTTrainer, LoRA"), (STREAMING, "StreamSFTTrainer")):
        peak = f"{result.peak_bytes[name] / 2**30:.2f} GiB" if result.peak_bytes else None
        rows.append([label, f"{1e3 * result.seconds[name]:,.1f}", ratios[name], peak])
    return rows


def _step(trainer: Any, batch: dict[str, Any]) -> float:
    """Seconds of one forward and backward; the gradients are dropped."""
    inputs = dict(batch)
    count = (inputs["labels"] != -100).sum()
    cuda = trainer.model.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    trainer.training_step(trainer.model_wrapped, inputs, num_items_in_batch=count)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    trainer.model_wrapped.zero_grad(set_to_none=True)
    return seconds


def _mean(values: Any) -> float:
    numbers: Sequence[int] = list(values)
    return sum(numbers) / len(numbers)
