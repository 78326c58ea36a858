"""What a run will roughly cost, for `--dry-run`: arithmetic from shapes, speed from one matrix product here."""

import time
from typing import Any

import torch

from ssft.training.loss import stream_targets

SHARE_OF_PEAK = 0.4
"""Share of a large matrix product's speed that a whole training step reached (docs/log.md)."""


def estimate(trainer: Any) -> dict[str, float]:
    """`gflop_per_step`, `steps`, `seconds` and `memory_gib` of the run that `trainer` is about to do."""
    batch = next(iter(trainer.get_train_dataloader()))
    backbone, args = trainer.hooks.backbone, trainer.args
    sources, targets = stream_targets(batch["labels"], args.num_streams)
    layer = sum(p.numel() for p in _linear_weights(backbone.layers[0]))
    head = backbone.head.weight.numel()
    main_rows = batch["input_ids"].numel()
    stream_rows = sources.numel() * args.num_streams
    head_rows = int((targets[..., 0] != -100).sum()) * (args.num_streams + 1)
    products = layer * (backbone.num_layers * main_rows + args.num_msa_layers * stream_rows) + head * head_rows
    # Two operations per product; forward and the gradient of the inputs (frozen weights need no gradient).
    flop = 4 * products * args.gradient_accumulation_steps
    steps = args.max_steps
    if steps <= 0:
        per_epoch = len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps
        steps = int(per_epoch * args.num_train_epochs)
    speed = _matrix_speed(trainer.model.device, backbone.config.hidden_size, args)
    hidden, width = backbone.config.hidden_size, 4
    # Activations kept for backward: some 34 values of h per row and layer in a gated block.
    rows = backbone.num_layers * main_rows + args.num_msa_layers * stream_rows
    activations = 0 if args.gradient_checkpointing else 34 * hidden * rows * width
    logits = 3 * head_rows * backbone.config.vocab_size * width
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    return {
        "gflop_per_step": round(flop / 1e9, 1),
        "gflops_of_a_matrix_product": round(speed / 1e9, 1),
        "steps": steps,
        "seconds": round(steps * flop / (SHARE_OF_PEAK * speed)),
        "memory_gib": round((weights + activations + logits) / 2**30, 2),
    }


def _linear_weights(layer: torch.nn.Module) -> list[torch.Tensor]:
    # `base_layer`: where a LoRA wraps the linear. A 4-bit weight stores two values per byte.
    return [
        torch.empty(m.out_features, m.in_features, device="meta")
        for name, m in layer.named_modules()
        if hasattr(m, "in_features") and "lora_" not in name and not hasattr(m, "base_layer")
    ]


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
