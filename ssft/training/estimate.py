"""What a run will roughly cost, for `--dry-run`: arithmetic from shapes, speed from one matrix product here."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer

from ssft.base.backbone import Backbone
from ssft.streams.config import StreamConfig
from ssft.training.loss import IGNORE, stream_targets

SHARE_OF_PEAK = 0.4
"""Share of a large matrix product's speed that a whole training step reached (docs/log.md)."""

FORWARD, FROZEN, TRAINED = 2, 4, 6
"""Operations per weight and row: forward; with the gradient of the inputs; with that of the weights, too."""


@dataclass
class StepCost:
    """Cost of one micro-batch: operations; layer rows whose activations wait for backward; rows of logits [V]."""

    flop: float
    layer_rows: int
    logit_rows: int


def step_cost(
    model: Any, batch: dict[str, Any], streams: StreamConfig | None = None, layers: int = FROZEN, head: int = FROZEN
) -> StepCost:
    """Main rows in all layers, rows of `streams` in the top N_s, and the head on the completion tokens of both.

    layers, head: operations per weight and row, see `FORWARD`.
    """
    backbone = Backbone(model)
    gamma, top = (0, 0) if streams is None else (streams.num_streams, streams.num_msa_layers)
    sources, targets = stream_targets(batch["labels"], gamma)
    rows = backbone.num_layers * batch["input_ids"].numel() + top * sources.numel() * gamma
    logits = int((targets[..., 0] != IGNORE).sum()) * (gamma + 1)
    return StepCost(
        layers * _layer_weights(backbone) * rows + head * backbone.head.weight.numel() * logits, rows, logits
    )


def estimate(trainer: Any, model: Any, cost: StepCost) -> dict[str, float]:
    """`gflop_per_step`, `steps`, `seconds` and `memory_gib` of the run that `trainer` is about to do.

    `model` is the one that `trainer` trains or trains something over, `cost` that of one micro-batch.
    """
    args = trainer.args
    flop = cost.flop * args.gradient_accumulation_steps
    steps = args.max_steps
    if steps <= 0:
        per_epoch = len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps
        steps = int(per_epoch * args.num_train_epochs)
    config, width = Backbone(model).config, 4
    speed = _matrix_speed(args.device, config.hidden_size, args)
    # Activations kept for backward: some 34 values of h per row and layer in a gated block.
    activations = 0 if args.gradient_checkpointing else 34 * config.hidden_size * cost.layer_rows * width
    logits = 3 * cost.logit_rows * config.vocab_size * width
    parameters = {id(p): p for part in (model, trainer.model) for p in part.parameters()}.values()
    weights = sum(p.numel() * p.element_size() for p in parameters)
    # A gradient and Adam's two moments.
    trained = 3 * sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    return {
        "gflop_per_step": round(flop / 1e9, 1),
        "gflops_of_a_matrix_product": round(speed / 1e9, 1),
        "steps": steps,
        "seconds": round(steps * flop / (SHARE_OF_PEAK * speed)),
        "memory_gib": round((weights + trained + activations + logits) / 2**30, 2),
    }


def _layer_weights(backbone: Backbone) -> int:
    """Weights of one decoder layer's linear modules."""
    # `base_layer`: where a LoRA wraps the linear. A 4-bit weight stores two values per byte.
    return sum(
        m.out_features * m.in_features
        for name, m in backbone.layers[0].named_modules()
        if hasattr(m, "in_features") and "lora_" not in name and not hasattr(m, "base_layer")
    )


def _matrix_speed(device: torch.device, hidden: int, args: Any) -> float:
    """Operations per second of a [1024, h]·[h, 4h] product in the run's precision."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    factors = {
        "a": torch.randn(1024, hidden, dtype=dtype, device=device),
        "b": torch.randn(hidden, 4 * hidden, dtype=dtype, device=device),
    }
    timer = Timer("a @ b", globals=factors, num_threads=torch.get_num_threads())
    return 2 * 1024 * hidden * 4 * hidden / min(timer.timeit(1).times[0] for _ in range(5))
