"""A draft model for two-model speculation where no smaller sibling of the base exists: the base with fewer layers.

Embeddings, the chosen decoder layers, final norm and head are copied from the base; then the copy is fine-tuned in
full on the adapter's data.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from ssft.errors import ConfigError


@dataclass
class DraftConfig:
    """Shape of the draft: which of the base's N decoder layers it keeps, and what of it is trained."""

    num_layers: int = field(
        default=6, metadata={"help": "number of decoder layers that the draft copies from the base"}
    )
    layers: Literal["spaced", "first"] = field(
        default="spaced",
        metadata={"help": "which layers the draft copies: spaced, evenly from the base's first to its last, or first"},
    )
    train_embeddings: bool = field(
        default=False,
        metadata={
            "help": "whether token embeddings and head are trained, too. A few thousand rows change the embeddings of "
            "few tokens, and the optimiser would keep two more values for every one"
        },
    )

    def check_draft(self, num_layers: int | None = None) -> None:
        """Raise `ConfigError` if a field is out of range; `num_layers` is N of the base if known."""
        if self.num_layers < 1:
            raise ConfigError(f"draft.num_layers={self.num_layers}: a draft has at least one layer")
        if num_layers is not None and self.num_layers >= num_layers:
            raise ConfigError(
                f"draft.num_layers={self.num_layers}: the base has {num_layers} layers, and a draft as deep as the "
                f"base cannot be faster; choose a value from 1 to {num_layers - 1}"
            )

    def chosen(self, num_layers: int) -> list[int]:
        """Indices of the copied layers, ascending, of a base with N = `num_layers`."""
        self.check_draft(num_layers)
        if self.layers == "first" or self.num_layers == 1:
            return list(range(self.num_layers))
        step = (num_layers - 1) / (self.num_layers - 1)
        return [round(index * step) for index in range(self.num_layers)]


def truncated(model: Any, config: DraftConfig) -> Any:
    """A new model in float32 with the layers of `model` that `config` chooses; `model` itself stays as it is."""
    import torch
    from transformers import AutoModelForCausalLM

    from ssft.base.backbone import Backbone

    backbone = Backbone(model)
    chosen = config.chosen(backbone.num_layers)
    settings = copy.deepcopy(model.config)
    settings.num_hidden_layers = len(chosen)
    if getattr(settings, "layer_types", None):
        settings.layer_types = [settings.layer_types[index] for index in chosen]
    draft = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).to(model.device)
    draft.load_state_dict(model.state_dict(), strict=False)  # not strict: the base has more layers
    for layer, index in zip(Backbone(draft).layers, chosen, strict=True):
        layer.load_state_dict(backbone.layers[index].state_dict())
    draft.generation_config = copy.deepcopy(model.generation_config)
    for part in (draft.get_input_embeddings(), draft.get_output_embeddings()):
        part.requires_grad_(config.train_embeddings)
    return draft.eval()
