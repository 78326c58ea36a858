"""What the commands that decode share: an adapter over its base, tree overrides, prompts, output of floats."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssft.cli._options import (
    Decorator,
    base_option,
    device_option,
    dtype_option,
    quantization_option,
    set_threads,
    threads_option,
)
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from ssft.runtime.loader import AdaptedModel

PROMPTS_HELP = (
    "JSONL or .jsonl.gz file with `prompt` or `messages` in every row; without it the adapter's own validation rows."
)


MERGE_HELP = "Add the LoRA into the base's weights once, so that no pass pays for it; not for a 4-bit base."


@dataclass(frozen=True)
class Opening:
    """How a model is opened: the options of `adapted_options`."""

    base: str | None = None
    quantization: str = "none"
    dtype: str = "auto"
    device: str | None = None
    threads: int | None = None
    merge: bool = False

    def open(self, adapter: str | None, tree: tuple[str, ...] = (), base: str | None = None) -> AdaptedModel:
        """The adapter over its base, with the overridden tree as its own, on so many threads; `base` stands in for one
        that the user did not name."""
        from ssft.runtime.loader import load_adapted

        override_tree(TreeConfig(), tree)  # what is wrong is told before the base is loaded
        set_threads(self.threads)
        adapted = load_adapted(
            adapter,
            self.base or base,
            dtype=self.dtype,
            quantization=self.quantization,
            device=self.device,
            merge=self.merge,
        )
        adapted.tree = override_tree(adapted.tree, tree)
        return adapted


def adapted_options(function: Any) -> Any:
    """`--base --quantization --dtype --device --threads --merge`, as the one parameter `opening: Opening`; the base
    defaults to the adapter's own."""

    @functools.wraps(function)
    def collected(*args: Any, **options: Any) -> Any:
        opening = Opening(**{f.name: options.pop(f.name) for f in fields(Opening)})
        return function(*args, opening=opening, **options)

    text = "Base model: an alias (see `ssft bases`), a folder or a hub id; without it the adapter's own."
    base = base_option(default=None, help=text)
    merge = click.option("--merge", is_flag=True, help=MERGE_HELP)
    for option in (merge, threads_option(), device_option(), dtype_option(), quantization_option(), base):
        collected = option(collected)
    return collected


def tree_option() -> Decorator:
    """`--tree`, parameter `tree: tuple[str, ...]`; pass it to `override_tree`."""
    keys = ", ".join(f.name for f in fields(TreeConfig))
    text = f"Override a setting of the adapter's draft tree, for example max_nodes=32; repeatable. Keys: {keys}."
    return click.option("--tree", metavar="KEY=VALUE", multiple=True, help=text)


def override_tree(tree: TreeConfig, overrides: tuple[str, ...] | list[str]) -> TreeConfig:
    """A copy of `tree` with `key=value` overrides applied in order; raises `ConfigError`."""
    values: dict[str, Any] = {}
    for text in overrides:
        name, equals, raw = (part.strip() for part in text.partition("="))
        name = name.removeprefix("tree.")
        if not equals or not name:
            raise ConfigError(f"--tree {text!r}: write key=value, such as max_nodes=32")
        known = {f.name: type(getattr(tree, f.name)) for f in fields(TreeConfig)}
        if name not in known:
            hint = nearest(name, known) or f"known are {', '.join(known)}"
            raise ConfigError(f"--tree {text!r}: unknown key {name!r}; {hint}")
        values[name] = _convert(text, raw, known[name])
    changed = replace(tree, **values)
    changed.check_tree()
    return changed


def _convert(text: str, raw: str, kind: type) -> Any:
    """The value of one override as the type of the field's value."""
    if kind is bool:
        if raw.lower() not in ("true", "false"):
            raise ConfigError(f"--tree {text!r}: expected true or false")
        return raw.lower() == "true"
    try:
        return kind(raw)
    except ValueError as error:
        raise ConfigError(f"--tree {text!r}: expected a value of type {kind.__name__}") from error


def need_streams(adapted: AdaptedModel, what: str) -> None:
    """Raise `ConfigError` if the adapter has no streams."""
    if adapted.streams is None:
        raise ConfigError(
            f"{adapted.name!r} has no streams, so there is nothing to {what}; give an adapter that `ssft train` wrote"
        )


def load_prompts(adapted: AdaptedModel, adapter: str, data: Path | None, limit: int | None) -> list[list[int]]:
    """Token ids of the prompts of `data`, or of the adapter's own validation rows."""
    from ssft.bench.answers import encode_rows

    return encode_rows(adapted, prompt_rows(adapter, data, limit))


def prompt_rows(adapter: str, data: Path | None, limit: int | None) -> list[dict[str, Any]]:
    """The first `limit` rows of `data`, or of the adapter's own validation rows."""
    from ssft.recipes.data import load_rows

    return load_rows(data, limit, need_completion=False) if data is not None else own_rows(adapter)[:limit]


def own_rows(adapter: str) -> list[dict[str, Any]]:
    """Validation rows of the run that made the adapter, as its run.yaml names them; with the references and categories
    of a local file."""
    from ssft.bundle.folder import AdapterFiles
    from ssft.bundle.format import RUN
    from ssft.recipes.data import load_dataset_pair
    from ssft.recipes.recipe import load_recipe

    run = Path(adapter) / RUN
    if not run.is_file() or not AdapterFiles(adapter).text(RUN).strip():
        raise ConfigError(f"{adapter} does not say on which data it was made; give prompts with --data FILE")
    try:
        recipe = load_recipe(run)
        # 42 is the seed of transformers' trainer, which a recipe without one trains with.
        _, validation = load_dataset_pair(recipe.data, recipe.training.get("seed", 42))
    except (ConfigError, DataError) as error:
        raise DataError(
            f"the validation rows that {run} names cannot be had: {error}\nGive prompts with --data FILE."
        ) from error
    return _as_in_file([dict(row) for row in validation], recipe.data.validation or recipe.data.train)


def _as_in_file(rows: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """The rows with what training does not read, references and categories, where `source` is a file."""
    from ssft.recipes.data import load_rows

    if not Path(source).is_file():
        return rows

    def key(row: dict[str, Any]) -> str:
        return json.dumps([row.get(name) for name in ("prompt", "completion", "messages")])

    whole = {key(row): row for row in load_rows(source)}
    return [whole.get(key(row), row) for row in rows]
