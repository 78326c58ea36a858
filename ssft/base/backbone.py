"""`Backbone`: a causal LM taken apart into decoder, layers, finish and head; its own modules do all the work."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssft.base.anatomy import Anatomy, anatomy_of
from ssft.errors import UnsupportedArchitectureError


def check_settings(config: Any) -> None:
    """Raise `UnsupportedArchitectureError` for settings of a model that no architecture can have beside streams."""
    name = config.model_type
    if getattr(config, "layerdrop", 0.0):
        raise UnsupportedArchitectureError(
            f"{name} with layerdrop={config.layerdrop}: a skipped layer would skip the insertion of the streams; "
            "set config.layerdrop=0"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if any(kind.get("rope_type") == "longrope" for kind in kinds):
        raise UnsupportedArchitectureError(
            f"{name} with rope_type 'longrope': transformers takes the frequencies of all rows from the longest "
            "position of a pass, so a draft or a longer neighbour would change a row's text; take a base with another "
            "rope_type"
        )
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        raise UnsupportedArchitectureError(
            f"architecture {name!r} has no stream support: its config has no max_position_embeddings, so that it is "
            "not known how long a sequence may be"
        )


class Backbone:
    """One causal LM seen through its `Anatomy`: decoder, layers, finish (norm, projection) and head, called apart."""

    def __init__(self, model: Any) -> None:
        """`model`: a causal LM of transformers, bare or inside a `PeftModel`.

        Raises:
            UnsupportedArchitectureError: streams cannot enter this model; says what stands in the way.
        """
        self.model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config: Any = self.model.config
        check_settings(self.config)
        self.anatomy: Anatomy = anatomy_of(self.model)
        self.decoder: Any = self.model.get_decoder()
        self.layers: Any = self.decoder.get_submodule(self.anatomy.layers)
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
    def vocab_size(self) -> int:
        """Token ids that the model knows: rows of its embedding, of which a tokenizer may use fewer."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def windows(self) -> tuple[int | None, ...]:
        """[N] tokens that a row of each layer sees of its past, itself included; None: all (no sliding window)."""
        return self.anatomy.windows

    @property
    def learned_positions(self) -> bool:
        """Whether positions are rows of a table, of which there are no more than `context_length`."""
        return not any(self.anatomy.rotary)

    def finish(self, hidden: Tensor) -> Tensor:
        """Last layer's output [..., h] -> what the head reads [..., h]: final norm and projection."""
        for name in self.anatomy.finish:
            hidden = self.decoder.get_submodule(name)(hidden)
        return hidden

    def logits(self, hidden: Tensor, head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Finished states [..., h] -> logits [..., V]; with `head` those of the rows that it has (`head_rows`).

        What a config says of their scale is applied, since probabilities hang on it: Granite's `logits_scaling`,
        Cohere's `logit_scale`, Gemma 2's `final_logit_softcapping`.
        """
        logits = (head or self.head)(hidden)
        if divisor := getattr(self.config, "logits_scaling", None):
            logits = logits / divisor
        if factor := getattr(self.config, "logit_scale", None):
            logits = logits * factor
        if cap := getattr(self.config, "final_logit_softcapping", None):
            logits = (logits / cap).tanh() * cap
        return logits
