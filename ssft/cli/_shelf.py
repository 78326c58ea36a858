"""What the commands over several adapters share: one base, folders by name, prompts of each adapter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssft.bench.answers import check_prompts
from ssft.cli._adapted import prompt_rows
from ssft.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from ssft.runtime.model import MultiAdapterModel


def adapter_names(adapters: tuple[str, ...]) -> dict[str, Path]:
    """Name (the folder's) -> folder, in the given order; raises `ConfigError` for two folders of one name."""
    paths = [Path(adapter) for adapter in adapters]
    counts = Counter(path.resolve().name for path in paths)
    for path in paths:
        name = path.resolve().name
        if counts[name] > 1:
            folders = ", ".join(str(other) for other in paths if other.resolve().name == name)
            raise ConfigError(
                f"{folders}: adapters are told apart by the names of their folders, and these are all named {name!r}; "
                "leave out all but one, or copy one to a folder of another name"
            )
    return {path.resolve().name: path for path in paths}


def shared_base(paths: dict[str, Path], base: str | None) -> str:
    """`base`, or the one that the first adapter names; every folder is read and checked, before anything is loaded."""
    from ssft.bundle.read import read_bundle

    named = [read_bundle(path).base.get("id") for path in paths.values()]
    name = base or next((value for value in named if value is not None), None)
    if name is None:
        folders = ", ".join(map(str, paths.values()))
        raise ConfigError(f"{folders}: nothing says which base the adapters were made for; name it with --base")
    return name


def data_files(names: list[str], data: tuple[str, ...]) -> dict[str, Path]:
    """`--data`: name -> file, from `NAME=FILE` and one `FILE` for all others; raises `ConfigError`."""
    own: dict[str, Path] = {}
    shared: Path | None = None
    for text in data:
        name, equals, file = text.partition("=")
        # A file may have a sign of equality in its name.
        if not equals or (name not in names and Path(text).is_file()):
            if shared is not None:
                raise ConfigError(f"--data {shared} and {text}: give one file for all adapters, or NAME=FILE for each")
            shared = Path(text)
        elif name not in names:
            hint = nearest(name, names) or f"adapters are {', '.join(names)}"
            raise ConfigError(f"--data {text}: no adapter is named {name!r}; {hint}")
        elif name in own:
            raise ConfigError(f"--data {text}: {name!r} has a file already, {own[name]}; give one per adapter")
        else:
            own[name] = Path(file)
    return {name: path for name in names if (path := own.get(name, shared)) is not None}


def adapter_rows(paths: dict[str, Path], data: tuple[str, ...], limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """Name -> the first `limit` rows of its `--data`, or of its own validation rows."""
    files = data_files(list(paths), data)
    return {name: prompt_rows(str(path), files.get(name), limit) for name, path in paths.items()}


def encode_prompts(model: MultiAdapterModel, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[list[int]]]:
    """Name -> token ids of each row's prompt; raises `DataError` for one that leaves the answer no room."""
    from ssft.runtime.inputs import encode_prompt

    prompts = {}
    for name, values in rows.items():
        prompts[name] = [encode_prompt(row, model.tokenizer) for row in values]
        try:
            check_prompts(prompts[name], model.hooks.backbone.context_length)
        except DataError as error:
            raise DataError(f"prompts of {name}: {error}") from error
    return prompts
