"""What a run will roughly cost, for `--dry-run`: arithmetic from shapes, speed from one matrix product here."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from ssft.base.backbone import Backbone
from ssft.training.loss import stream_targets

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


def stream_cost(backbone: Backbone, batch: dict[str, Any], args: Any) -> StepCost:
    """A LoRA and streams over a frozen base: main rows in all layers, stream rows in the top N_s."""
    sources, targets = stream_targets(batch["labels"], args.num_streams)
    rows = backbone.num_layers * batch["input_ids"].numel()
    rows += args.num_msa_layers * sources.numel() * args.num_streams
    logits = int((targets[..., 0] != -100).sum()) * (args.num_streams + 1)
    return StepCost(FROZEN * (layer_weights(backbone) * rows + head_weights(backbone) * logits), rows, logits)


def lora_cost(model: Any, batch: dict[str, Any]) -> StepCost:
    """A LoRA over a frozen base, with the head on completion tokens."""
    backbone = Backbone(model)
    rows = backbone.num_layers * batch["input_ids"].numel()
    logits = int((batch["labels"][:, 1:] != -100).sum())
    return StepCost(FROZEN * (layer_weights(backbone) * rows + head_weights(backbone) * logits), rows, logits)


def medusa_cost(model: Any, batch: dict[str, Any], num_heads: int, weights: int) -> StepCost:
    """Heads with `weights` parameters in all, on completion tokens, over a forward pass of the base."""
    backbone = Backbone(model)
    rows = int((batch["labels"][:, 1:] != -100).sum())
    forward = FORWARD * backbone.num_layers * layer_weights(backbone) * batch["input_ids"].numel()
    return StepCost(forward + TRAINED * weights * rows, 0, rows * num_heads)


def draft_cost(model: Any, batch: dict[str, Any]) -> StepCost:
    """A model whose layers are trained themselves, with the head on completion tokens."""
    backbone = Backbone(model)
    rows = backbone.num_layers * batch["input_ids"].numel()
    logits = int((batch["labels"][:, 1:] != -100).sum())
    head = TRAINED if backbone.head.weight.requires_grad else FROZEN
    return StepCost(TRAINED * layer_weights(backbone) * rows + head * head_weights(backbone) * logits, rows, logits)


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


def layer_weights(backbone: Backbone) -> int:
    """Weights of one decoder layer's linear modules."""
    # `base_layer`: where a LoRA wraps the linear. A 4-bit weight stores two values per byte.
    return sum(
        m.out_features * m.in_features
        for name, m in backbone.layers[0].named_modules()
        if hasattr(m, "in_features") and "lora_" not in name and not hasattr(m, "base_layer")
    )


def head_weights(backbone: Backbone) -> int:
    """Weights of the base's head [V, h]."""
    return backbone.head.weight.numel()


def _matrix_speed(device: torch.device, hidden: int, args: Any) -> float:
    """Operations per second of a [1024, h]·[h, 4h] product in the run's precision."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    a = torch.randn(1024, hidden, dtype=dtype, device=device)
    b = torch.randn(hidden, 4 * hidden, dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        (a @ b).sum().item()
        best = max(best, 2 * 1024 * hidden * 4 * hidden / (time.perf_counter() - begin))
    return best
