"""Lossless mode in training: the LoRA acts on stream rows only (paper §3.2.4).

The main stream runs without it, so the decoded text is the base's own, or that of an adapter which the run keeps under
it (`runs/start.py`); LoRA and P_j learn nothing but to draft.
A stream exists only from layer N−N_s up, so below it a LoRA would never be used, and no gradient is taken there:
training keeps no activations of those layers and goes back through N_s layers alone.
"""

import re
from copy import copy
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor

from ssft.base.backbone import Backbone
from ssft.errors import ConfigError
from ssft.streams.passes import current_pass
from ssft.streams.plan import StreamPlan


class StreamRowsOnly(LoraVariant):
    """A peft variant that adds the low-rank product to the stream rows of the current plan.

    The plan of a training step is an attribute, not a context: with activation checkpointing a layer runs again in
    backward, in another thread and outside any context, and must see the plan of its own forward pass. Where it is
    None, as in decoding between two steps, the plan is that of the announced pass.
    """

    plan: StreamPlan | None = None

    def supports_lora_conversion(self) -> bool:
        """A converted LoRA would act on every row."""
        return False

    def forward(  # type: ignore[override]  # peft's variants are static; an instance may carry state
        self, module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """x [B, R(+S·γ), in] or, flattened, [B·rows, in]; result likewise with out."""
        now = current_pass()
        plan = self.plan or (None if now is None else now.plan)
        if plan is None or not plan.num_main:
            return result
        main, batch = plan.num_main, plan.sources.shape[0]
        rows = x.reshape(batch, -1, x.shape[-1])
        if rows.shape[1] <= main:
            return result
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        added = up(down(module.lora_dropout[active_adapter](rows[:, main:]))) * module.scaling[active_adapter]
        base = result.reshape(batch, -1, result.shape[-1])
        return torch.cat((base[:, :main], base[:, main:] + added.to(base.dtype)), dim=1).view_as(result)


def gate_lora(peft_model: Any, adapter: str, num_msa_layers: int) -> StreamRowsOnly:
    """Let the LoRA of `adapter` act on stream rows only; the returned gate needs the plan of each forward pass.

    Raises:
        ConfigError: a LoRA module lies where no stream ever is.
    """
    backbone = Backbone(peft_model)
    first = backbone.num_layers - num_msa_layers
    used = {id(module) for layer in backbone.layers[first:] for module in layer.modules()}
    gate = StreamRowsOnly()
    for name, module in peft_model.named_modules():
        if not isinstance(module, LoraLayer) or adapter not in module.lora_A:
            continue
        if id(module) not in used:
            raise ConfigError(
                f"mode='lossless': the LoRA on {name} would never be used, since streams exist only in the top "
                f"{num_msa_layers} layers; set layers_to_transform to {list(range(first, backbone.num_layers))}, or "
                "leave layers_to_transform and exclude_modules out"
            )
        module.lora_variant[adapter] = gate
    return gate


def restrict_to_stream_layers(lora: LoraConfig, model: Any, num_msa_layers: int) -> LoraConfig:
    """A copy of `lora` for the top N_s layers only, unless it says itself which layers it is for."""
    if lora.layers_to_transform is not None or lora.exclude_modules is not None:
        return lora
    backbone = Backbone(model)
    top = "|".join(str(i) for i in range(backbone.num_layers - num_msa_layers, backbone.num_layers))
    restricted = copy(lora)
    restricted.exclude_modules = rf"(?!.*\b{re.escape(backbone.anatomy.layers)}\.({top})\.).*"
    return restricted
