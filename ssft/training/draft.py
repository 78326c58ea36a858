"""A draft model for two-model speculation where no smaller sibling of the base exists: the base with fewer layers.

Embeddings, the chosen decoder layers, final norm and head are copied from the base; then the copy is fine-tuned in
full on the adapter's data. What is written is an ordinary folder of transformers, with `run.yaml` and
`provenance.json`, which `generate(assistant_model=...)` takes like any other small model.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssft.errors import ConfigError


@dataclass
class DraftConfig:
    """Shape of the draft: which of the base's N decoder layers it keeps, and what of it is trained."""

    num_layers: int = field(default=6, metadata={"help": "decoder layers of the draft, copied from the base"})
    layers: Literal["spaced", "first"] = field(
        default="spaced",
        metadata={
            "help": "which layers are copied: spaced evenly from the base's first to its last, or the first ones"
        },
    )
    train_embeddings: bool = field(
        default=False,
        metadata={
            "help": "whether token embeddings and head are trained, too; frozen they stay the base's own: a few "
            "thousand rows move few tokens, and the optimiser would keep two more copies of every row"
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
    layers = next(name for name, module in model.named_modules() if module is backbone.layers)
    places = {f"{layers}.{old}.": f"{layers}.{new}." for new, old in enumerate(chosen)}
    weights = {}
    for key, value in model.state_dict().items():
        if not key.startswith(f"{layers}."):
            weights[key] = value
            continue
        place = f"{layers}.{key[len(layers) + 1 :].split('.')[0]}."
        if place in places:
            weights[places[place] + key[len(place) :]] = value
    draft.load_state_dict(weights)
    draft.generation_config = copy.deepcopy(model.generation_config)
    for part in (draft.get_input_embeddings(), draft.get_output_embeddings()):
        part.requires_grad_(config.train_embeddings)
    return draft.eval()


def build_draft_trainer(model: Any, args: Any, train_rows: Any, validation_rows: Any, tokenizer: Any) -> Any:
    """TRL's `SFTTrainer` over all trainable weights of a draft that `truncated` made; `args` is an `SFTConfig`."""
    from trl import SFTTrainer

    return SFTTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=tokenizer,
    )


def save_draft(path: Path, model: Any, tokenizer: Any, run_yaml: str, provenance: dict[str, Any]) -> None:
    """Write the draft as transformers does, with `run.yaml` and `provenance.json`; the folder appears whole or not."""
    from ssft.base.embedded import check_folder
    from ssft.training.peer_folder import made_by, result_folder

    with result_folder(path, run_yaml, provenance, lambda old: made_by(old) == "draft") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        check_folder(folder)
