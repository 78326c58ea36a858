"""What a run is: the recipe with everything that was loaded for it, and what it leaves behind."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ssft.bundle.format import Bundle
from ssft.recipes.recipe import Recipe


@dataclass
class Loaded:
    """A model to be trained (over), its tokenizer, and the fingerprint of the base that it is or comes from.

    adapted: the model with the adapter that is trained over; start: the adapter that the run begins from, or, if it is
    held, whose LoRA stays as it is; adapter_sha256: hash of the one or the other as it was loaded, which a resumed run
    must find again; told: what people read about the run before it begins.
    """

    model: Any
    tokenizer: Any
    fingerprint: dict[str, str]
    adapted: Any = None
    adapter_sha256: str = ""
    start: Bundle | None = None
    held: bool = False
    told: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class PreparedRun(Loaded):
    """Everything a run needs, checked. `run_yaml` is the recipe as the result will hold it. `told` begins with the rows
    of training and of validation: where they come from, and how many of how many were taken."""

    recipe: Recipe
    args: Any
    train: Dataset
    validation: Dataset
    run_yaml: str


@dataclass
class Trained:
    """What a run wrote: `product` says what it is, `size_bytes` what its files take."""

    path: Path
    product: str
    size_bytes: int
    provenance: dict[str, Any]


def run_folder(output: Path) -> Path:
    """Where a run keeps its checkpoints: beside the result, so that this holds its own files only."""
    return output.with_name(f"{output.name}.run")
