"""What differs per architecture: where the decoder, its layers, its last norm and its positions are.

A new architecture is one more `Family` here and one more tiny model in `tests/conftest.py`. The model's own
layers do all the work; nothing of them is copied.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssft.errors import UnsupportedArchitectureError


@dataclass(frozen=True)
class Family:
    """Names of the parts of one architecture's decoder.

    `final_norm` is applied after the last layer (None where a checkpoint has none), `project_out` after the norm
    (OPT-350m only). `rotary` families get a stream's position from rotary embeddings; the others carry positions
    in the main state that a stream starts from.
    """

    name: str
    model_types: tuple[str, ...]
    final_norm: str
    rotary: bool
    layers: str = "layers"
    project_out: str | None = None


FAMILIES = (
    Family("llama", ("llama", "mistral"), final_norm="norm", rotary=True),
    Family("opt", ("opt",), final_norm="final_layer_norm", rotary=False, project_out="project_out"),
)


def family_of(model: nn.Module) -> Family:
    """The `Family` of a causal LM.

    Raises:
        UnsupportedArchitectureError: no family knows `model.config.model_type`, or a setting of it cannot work.
    """
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", type(model).__name__)
    for family in FAMILIES:
        if model_type in family.model_types:
            break
    else:
        known = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
        raise UnsupportedArchitectureError(
            f"architecture {model_type!r} has no stream support; supported: {known}. A new one is an entry in "
            "ssft/base/backbone.py"
        )
    if getattr(config, "layerdrop", 0.0):
        raise UnsupportedArchitectureError(
            f"{model_type} with layerdrop={config.layerdrop}: a skipped layer would skip the insertion of the streams; "
            "set config.layerdrop=0"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        raise UnsupportedArchitectureError(
            f"{model_type} with rope_type 'longrope': transformers takes the frequencies of all rows from the longest "
            "position of a pass, so a draft or a longer neighbour would change a row's text; take a base with another "
            "rope_type"
        )
    return family


class Backbone:
    """One causal LM seen through its family: decoder, layers, finish (norm, projection) and head, called apart."""

    def __init__(self, model: Any) -> None:
        """`model`: a causal LM of transformers, bare or inside a `PeftModel`."""
        self.model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.family = family_of(self.model)
        self.config: Any = self.model.config
        self.decoder: Any = self.model.get_decoder()
        self.layers: nn.ModuleList = getattr(self.decoder, self.family.layers)
        self.head: Any = self.model.get_output_embeddings()

    @property
    def num_layers(self) -> int:
        """N."""
        return len(self.layers)

    @property
    def context_length(self) -> int:
        """Longest sequence in tokens that the positions allow."""
        return int(self.config.max_position_embeddings)

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows: rows of its embedding, of which a tokenizer may use fewer."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def window(self) -> int | None:
        """Tokens that a row sees of its past, itself included; None: all of them (no sliding window)."""
        return getattr(self.config, "sliding_window", None)

    def finish(self, hidden: Tensor) -> Tensor:
        """Last layer's output [..., h] -> what the head reads [..., h]: final norm and projection."""
        norm: Any = getattr(self.decoder, self.family.final_norm)
        hidden = hidden if norm is None else norm(hidden)
        project: Any = getattr(self.decoder, self.family.project_out) if self.family.project_out else None
        return hidden if project is None else project(hidden)

    def logits(self, hidden: Tensor, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Finished states [..., h] -> logits [..., V]; with `head` those of the rows that it has (`head_rows`)."""
        return (head or self.head)(hidden)

    def rotary(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor] | None:
        """(cos, sin), each [B, T, d], for `position_ids` [B, T]; None where positions are learned."""
        if not self.family.rotary:
            return None
        with torch.no_grad():
            return self.decoder.rotary_emb(hidden, position_ids=position_ids)
