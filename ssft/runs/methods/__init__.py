"""What a recipe's `method` trains: every file here is one value, found by its name, and holds a `class Method`."""

import importlib
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.hub import resolve_adapter
from ssft.bundle.read import read_outline
from ssft.errors import ConfigError, UnsupportedArchitectureError
from ssft.recipes.recipe import Recipe
from ssft.runs.lora_settings import check_targets
from ssft.runs.run import Loaded, PreparedRun
from ssft.runs.start import read_start
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel
from ssft.runtime.selfcheck import require_support
from ssft.training.advice import Advice


class TrainingMethod(ABC):
    """One value of `method`: which model is loaded, which trainer trains it, what is written."""

    product: ClassVar[str]
    """What a run writes, in a word."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def default_output(self, recipe: Recipe, source: Path | None) -> Path:
        """Where a run of `recipe` writes to; `source` is the file that the recipe comes from."""

    def load(self, recipe: Recipe, args: Any, device: str | None) -> Loaded:
        """Load and check what the run trains; by default a LoRA over the base, and the adapter to begin from if any."""
        if recipe.adapter:
            read_outline(resolve_adapter(recipe.adapter))  # a mistake is told before the base is loaded
        loaded = load_checked(recipe, base_dtype(recipe, args), device)
        check_targets(recipe.lora, loaded.model)
        if recipe.adapter:
            loaded.start = read_start(recipe.adapter, loaded.model, loaded.fingerprint)
            loaded.adapter_sha256 = loaded.start.weights_sha256
        return loaded

    @abstractmethod
    def build_trainer(self, run: PreparedRun, **data: Any) -> Any:
        """The trainer of a run; `data` are the keywords of `SFTTrainer` for the rows and the tokenizer."""

    def check_output(self, output: Path) -> None:
        """Raise `ConfigError` unless `output` is free, an empty folder, or what the same method may replace."""
        empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
        if not empty and not self.may_replace(output):
            raise ConfigError(
                f"{output} exists and is no {self.product} that method={self.name} wrote; nothing there was changed. "
                "Choose another folder with --output, or move that one away (a run that has ended then goes on with "
                "--resume)"
            )

    @abstractmethod
    def may_replace(self, output: Path) -> bool:
        """Whether the folder `output` is an earlier result of the same method, which a new one replaces."""

    @abstractmethod
    def write(self, run: PreparedRun, trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        """Write the result; the folder appears whole or not at all."""

    def advice(self, run: PreparedRun, cost: dict[str, float]) -> list[Advice]:
        """What to choose instead; `cost` is the estimate of the run. By default nothing is known."""
        return []

    def parameters(self, run: PreparedRun, trainer: Any) -> dict[str, int]:
        """Parameters by what they belong to; by default those of a frozen base and of what is trained over it."""
        lora = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        return {"base": sum(p.numel() for p in trainer.model.parameters()) - lora, "lora": lora}


def method_names() -> list[str]:
    """The values of `method`, as the files of this folder say."""
    return sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py"))


@cache
def training_method(name: str) -> TrainingMethod:
    """The method of a checked recipe, whose `method` is one of `method_names`."""
    return importlib.import_module(f"{__name__}.{name}").Method(name)


def load_checked(recipe: Recipe, dtype: str, device: str | None) -> Loaded:
    """The base of a recipe; raises `UnsupportedArchitectureError` if streams cannot run in it."""
    model, tokenizer = load_base(recipe.base, dtype=dtype, quantization=recipe.quantization, device=device)
    try:
        require_support(model)
    except UnsupportedArchitectureError as error:
        raise UnsupportedArchitectureError(f"base {recipe.base!r}: {error}") from error
    return Loaded(model, tokenizer, base_fingerprint(model, tokenizer, recipe.base))


def adapted_of(recipe: Recipe, args: Any, device: str | None) -> MultiAdapterModel:
    """The adapter of a recipe over its base, for a trainer of something beside it."""
    return load_adapted(
        recipe.adapter,
        recipe.base,
        dtype=base_dtype(recipe, args),
        quantization=recipe.quantization,
        device=device,
        fast=False,  # the trainer moves the model
    )


def base_dtype(recipe: Recipe, args: Any) -> str:
    """Type of a frozen base; what is trained over it is float32, and autocast computes in args.bf16/fp16."""
    if recipe.dtype != "auto":
        return recipe.dtype
    return "bfloat16" if args.bf16 else "float32"
