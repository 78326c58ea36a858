"""Whether a run may begin, or go on with an interrupted one: nothing finished is lost, no setting changes unseen."""

from pathlib import Path
from typing import Any

import yaml

from ssft.bundle.format import RUN
from ssft.errors import ConfigError
from ssft.files import write_text
from ssft.recipes.recipe import Recipe
from ssft.recipes.yaml import Loader
from ssft.runs.methods import training_method
from ssft.runs.run import PreparedRun, run_folder
from ssft.schema import shown
from ssft.training.callbacks import last_complete_checkpoint

_ADAPTER = "# adapter: "


def check_may_begin(recipe: Recipe, output: Path, resume: bool, force: bool) -> Path | None:
    """The checkpoint that a run of `recipe` into `output` goes on from, if any.

    Raises:
        ConfigError: `output` holds something else; or a finished result, which only `force` or the end of an
            interrupted run replaces; or an interrupted run that `resume` was not asked to go on with.
    """
    method = training_method(recipe.method)
    method.check_output(output)
    folder = run_folder(output)
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"{folder} holds the checkpoint {checkpoint.name} of an interrupted run; go on with it by --resume, or "
            "remove that folder to start anew"
        )
    if checkpoint is None and not force and output.exists() and any(output.iterdir()):
        raise ConfigError(
            f"{output} holds a finished {method.product}, which this run would replace together with what was "
            "measured of it; choose another folder with --output, or replace it with --force"
        )
    return checkpoint


def write_identity(run: PreparedRun, output: Path) -> None:
    """Write beside the checkpoints what a run that goes on with this one must have in common with it."""
    write_text(run_folder(output) / RUN, f"{run.run_yaml}{_ADAPTER}{run.adapter_sha256 or 'none'}\n")


def check_same_run(run: PreparedRun, output: Path) -> None:
    """Raise `ConfigError` if a resumed run has other settings or another adapter, which would change its losses."""
    before = run_folder(output) / RUN
    if not before.exists():
        return
    settings, _, adapter = before.read_text(encoding="utf-8").rpartition(_ADAPTER)
    then, now = (_flat(yaml.load(text, Loader=Loader) or {}) for text in (settings, run.run_yaml))
    changed = [
        f"{key} ({shown(then[key]) if key in then else 'not given'} then, "
        f"{shown(now[key]) if key in now else 'not given'} now)"
        for key in {**then, **now}
        if then.get(key) != now.get(key)
    ]
    if adapter.strip() != (run.adapter_sha256 or "none"):
        changed.append(f"the files of adapter={run.recipe.adapter!r}")
    if changed:
        raise ConfigError(
            f"{before} differs from what is given in {', '.join(changed)}; resume with the same settings and files, or "
            f"remove {before.parent} to start anew"
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of a recipe's document by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) and not prefix else {f"{prefix}{key}": value}
    return flat
