"""What the commands that decode share: an adapter over its base, its draft tree, and the prompts."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.bundle.shipped import check_adapter_name, local_adapter
from ssft.cli import _options as shared
from ssft.decoding.config import AUTO, TreeConfig
from ssft.errors import BundleError, ConfigError, DataError
from ssft.schema import is_hub_id, read

if TYPE_CHECKING:
    from ssft.recipes.config import DataConfig
    from ssft.runtime.model import MultiAdapterModel

DATA_HELP = (
    "File (JSONL, JSON, CSV, parquet); every row has `prompt` or `messages`, or the columns "
    "that the adapter was trained with."
)
PROMPTS_HELP = f"{DATA_HELP} Without it the command takes the validation rows of the adapter's training."
TREE_HELP = (
    "Change a setting of the adapter's draft tree for this call, for example max_nodes=32. The option can be repeated. "
    f"The keys are {', '.join(f.name for f in fields(TreeConfig))}."
)
MERGE_HELP = "Add the LoRA into the base's weights once, so that no pass pays for it. A 4-bit base cannot do this."


@dataclass(frozen=True)
class Decoding:
    """How a command decodes; every field is the option of that name."""

    max_new_tokens: int
    batch_size: int
    tree: tuple[str, ...]
    base: str | None
    quantization: str
    dtype: str
    device: str | None
    threads: int | None
    merge: bool

    def check(self, adapter: str | None) -> None:
        """Raise an `SSFTError` for what is wrong with the options or the adapter's folder, without a model."""
        override_tree(TreeConfig(), self.tree)
        if adapter is not None:
            check_adapter_name(adapter)
            if (folder := local_adapter(adapter)) is not None:
                from ssft.bundle.read import read_outline

                outline = read_outline(folder)
                if outline.stream_config is not None:
                    override_tree(outline.tree, self.tree).check_prune_head(outline.stream_config.prune_head_rank)

    def open(self, adapter: str | None, base: str | None = None) -> MultiAdapterModel:
        """The adapter over its base, with the overridden tree as its own; `base` stands in for one that the user did
        not name."""
        from ssft.runtime.loader import load_adapted

        override_tree(TreeConfig(), self.tree)  # a mistake is told before the base is loaded
        shared.set_threads(self.threads)
        how: dict[str, Any] = {key: getattr(self, key) for key in ("dtype", "quantization", "device", "merge")}
        adapted = load_adapted(adapter, self.base or base, **how)
        adapted.active.tree = override_tree(adapted.active.tree, self.tree)
        if adapted.active.tree.budget == AUTO and (adapted.active.streams is not None or adapted.active.tree.lookup):
            adapted.measure_costs(self.batch_size)
        return adapted


def decoding_options(max_new_tokens: int = 128, batch_size: int = 1, base: bool = True) -> shared.Decorator:
    """The options of `Decoding`, as the one parameter `decoding`; the numbers are defaults. `base`: whether there is an
    option for the base, which a command that has it as an argument hands to `Decoding.open`."""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def collected(*args: Any, **options: Any) -> Any:
            decoding = Decoding(**{f.name: options.pop(f.name, None) for f in fields(Decoding)})
            return function(*args, decoding=decoding, **options)

        return shared.together(
            shared.max_new_tokens_option(default=max_new_tokens),
            click.option(
                "--batch-size",
                type=shared.POSITIVE,
                default=batch_size,
                help="Number of prompts that are decoded together.",
            ),
            click.option("--tree", metavar="KEY=VALUE", multiple=True, help=TREE_HELP),
            *[shared.base_option()] * base,
            shared.quantization_option(),
            shared.dtype_option(),
            shared.device_option(),
            shared.threads_option(),
            click.option("--merge", is_flag=True, help=MERGE_HELP),
        )(collected)

    return decorate


def override_tree(tree: TreeConfig, overrides: tuple[str, ...] | list[str]) -> TreeConfig:
    """A copy of `tree` with `key=value` overrides applied in order; raises `ConfigError`."""
    values = tree.tree_dict()
    for text in overrides:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"--tree {text!r}: write key=value, such as max_nodes=32")
        values[name.removeprefix("tree.")] = _setting(value)
    try:
        changed: TreeConfig = read(TreeConfig, values, "tree")
        changed.check_tree()
    except ValueError as error:  # `ConfigError` is one
        raise ConfigError(f"--tree: {error}") from error
    return changed


def _setting(text: str) -> float | bool | str:
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?[0-9]{0,18}\.[0-9]{1,18}", text) else _WORDS.get(text, text)


_WORDS: dict[str, float | bool | str] = {"true": True, "false": False}


def load_prompts(adapted: MultiAdapterModel, adapter: str, data: Path | None, limit: int | None) -> list[list[int]]:
    """Token ids of the prompts of `prompt_rows`."""
    from ssft.bench.answers import encode_rows

    return encode_rows(adapted, prompt_rows(adapter, data, limit))


def prompt_rows(adapter: str, data: Path | None, limit: int | None) -> list[dict[str, Any]]:
    """`data_rows`, or without `data` the first `limit` of the adapter's own validation rows."""
    return data_rows(adapter, data, limit) if data is not None else own_rows(adapter)[:limit]


def data_rows(adapter: str | None, data: Path, limit: int | None) -> list[dict[str, Any]]:
    """The first `limit` rows of `data`, put into form by the columns and templates of the adapter's own run.yaml."""
    from ssft.recipes.data import load_rows

    columns = None if adapter is None else own_columns(adapter)
    return load_rows(data, limit, need_completion=False, data=columns)


def own_columns(adapter: str) -> DataConfig | None:
    """The section `data` of the adapter's run.yaml; none if there is no such file, or, which is told, none that can be
    read."""
    from ssft.bundle.hub import resolve_adapter
    from ssft.bundle.shipped import local_adapter
    from ssft.recipes.run_data import data_of_run

    try:
        folder = resolve_adapter(adapter) if is_hub_id(adapter) else local_adapter(adapter)
        return None if folder is None else data_of_run(folder)
    except (BundleError, ConfigError) as error:
        click.echo(f"the columns that {adapter} was trained with are not known: {error}", err=True)
        return None


def own_rows(adapter: str) -> list[dict[str, Any]]:
    """Validation rows of the run that made the adapter, as its run.yaml names them."""
    from ssft.bundle.folder import AdapterFiles
    from ssft.bundle.format import RUN
    from ssft.recipes.data import load_row_pair
    from ssft.recipes.recipe import load_recipe

    folder = local_adapter(adapter) or Path(adapter)
    run = folder / RUN
    if not run.is_file() or not AdapterFiles(folder).text(RUN).strip():
        raise ConfigError(f"{adapter} does not say on which data it was made; give prompts with --data FILE")
    try:
        recipe = load_recipe(run)
        # 42 is the seed of transformers' trainer, which a recipe without one trains with.
        return load_row_pair(recipe.data, recipe.training.get("seed", 42))[1].rows
    except (ConfigError, DataError) as error:
        raise DataError(
            f"the validation rows that {run} names cannot be had: {error}\nGive prompts with --data FILE."
        ) from error
