"""Writing an output folder so that it appears whole or not at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssft.bundle.format import PROVENANCE, RUN
from ssft.errors import ConfigError
from ssft.files import whole_folder, write_sorted_json


@contextmanager
def result_folder(
    target: Path, run_yaml: str, provenance: dict[str, Any], replaceable: Callable[[Path], bool]
) -> Iterator[Path]:
    """`files.whole_folder` for the result of a run; `run.yaml` and `provenance.json` are in it already.

    `replaceable` tells of what stands at `target` whether it is an earlier result of the same kind.

    Raises:
        ConfigError: something else stands at `target`, before the block or after it.
    """
    with whole_folder(target, lambda old: check_free(old, replaceable)) as folder:
        (folder / RUN).write_text(run_yaml, encoding="utf-8")
        write_sorted_json(folder / PROVENANCE, provenance)
        yield folder


def may_write(target: Path, replaceable: Callable[[Path], bool]) -> bool:
    """Whether `target` is free, an empty folder, or something that `replaceable` gives away."""
    return not target.exists() or (target.is_dir() and not any(target.iterdir())) or replaceable(target)


def check_free(target: Path, replaceable: Callable[[Path], bool]) -> None:
    """Raise `ConfigError` unless `may_write`."""
    if not may_write(target, replaceable):
        raise ConfigError(
            f"{target} exists and is no earlier result of this kind; nothing there was changed. Choose another folder, "
            "or move that one away (a run that has ended then goes on with --resume)"
        )
