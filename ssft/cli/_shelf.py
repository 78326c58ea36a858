"""What the commands over several adapters share: folders by name, one base, a file of rows for each."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ssft.bundle.shipped import local_adapter
from ssft.cli._options import data_option
from ssft.errors import ConfigError, nearest

files_option = partial(
    data_option,
    type=str,
    multiple=True,
    metavar="[NAME=]FILE",
    default=(),
    help="File (JSONL, JSON, CSV, parquet) with rows: NAME=FILE for the adapter NAME (its folder's name), or one FILE "
    "for all others. Without it the command takes the validation rows of an adapter's training.",
)
"""`--data` of the commands over several adapters, for `data_files`."""


def adapter_names(adapters: tuple[str, ...]) -> dict[str, Path]:
    """Name (the folder's) -> folder, in the given order; raises `ConfigError` for two folders of one name."""
    folders: dict[str, list[Path]] = {}
    for path in (local_adapter(adapter) or Path(adapter) for adapter in adapters):
        folders.setdefault(path.resolve().name, []).append(path)
    for name, paths in folders.items():
        if len(paths) > 1:
            raise ConfigError(
                f"{', '.join(map(str, paths))}: adapters are told apart by the names of their folders, and these are "
                f"all named {name!r}; leave out all but one, or copy one to a folder of another name"
            )
    return {name: paths[0] for name, paths in folders.items()}


def shared_base(paths: dict[str, Path], base: str | None) -> str:
    """`base`, or the one that the first adapter names; every folder is read and checked, before anything is loaded."""
    from ssft.bundle.read import read_bundle

    named = [read_bundle(path).base_name for path in paths.values()]
    name = base or next((value for value in named if value is not None), None)
    if name is None:
        folders = ", ".join(map(str, paths.values()))
        raise ConfigError(f"{folders}: nothing says which base the adapters were made for; name it with --base")
    return name


def data_files(names: list[str], data: tuple[str, ...]) -> dict[str, Path]:
    """`--data`: name -> file, from `NAME=FILE` and one `FILE` for all others; raises `ConfigError`."""
    own: dict[str, Path] = {}
    shared: list[Path] = []
    for text in data:
        name, equals, file = text.partition("=")
        # A file may have a sign of equality in its name.
        if not equals or (name not in names and Path(text).is_file()):
            shared.append(Path(text))
        elif name not in names:
            hint = nearest(name, names) or f"adapters are {', '.join(names)}"
            raise ConfigError(f"--data {text}: no adapter is named {name!r}; {hint}")
        elif name in own:
            raise ConfigError(f"--data {text}: {name!r} has a file already, {own[name]}; give one per adapter")
        else:
            own[name] = Path(file)
    if len(shared) > 1:
        raise ConfigError(
            f"--data {' and '.join(map(str, shared))}: give one file for all adapters, or NAME=FILE for each"
        )
    return {**(dict.fromkeys(names, shared[0]) if shared else {}), **own}
