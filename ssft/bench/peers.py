"""What an adapter is compared with: the methods that can run here, and the folder with what they were trained to.

<root>/<adapter's name>/medusa    Medusa heads over the adapted base
                        draft     a small model that drafts for it
                        twin      the same training without streams: a plain LoRA
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssft.bench.methods import REFERENCE, Setting, build_methods, method_names
from ssft.bundle.format import RUN
from ssft.errors import ConfigError, SSFTError

ALL = "all"
"""In place of methods' names: every method that can run."""
PARTS = ("medusa", "draft", "twin")
UNKNOWN = "run.yaml is missing, so nothing is known"
"""In place of what a twin's training differs in."""
_REPORTING = ("logging", "log_", "save", "eval", "per_device_eval", "disable_tqdm", "report_to")
_STREAMS = ("num_streams", "num_msa_layers", "identifier", "mode", "projection_rank", "stream_", "main_loss_weight")
"""How settings of a training begin that do not reach the LoRA of a run without streams."""


def peers_folder(root: Path | None, name: str) -> Path | None:
    """The folder of the adapter `name` under `--peers`, which need not exist; None without a root.

    Raises:
        ConfigError: `root` is no folder, or is an adapter's own folder.
    """
    if root is None:
        return None
    if not root.is_dir():
        raise ConfigError(f"--peers {root}: no such folder; give the folder that holds {name}/ with {', '.join(PARTS)}")
    if not (root / name).is_dir() and any((root / part).is_dir() for part in PARTS):
        raise ConfigError(
            f"--peers {root} holds {', '.join(part for part in PARTS if (root / part).is_dir())} itself; give the "
            f"folder above it, which holds a folder per adapter, such as {name}/"
        )
    return root / name


def twin_folder(peers: Path | None) -> Path | None:
    """The folder of the plain-LoRA twin if there is one."""
    return peers / "twin" if peers is not None and (peers / "twin").is_dir() else None


def twin_command(adapter: Path, peers: Path) -> str:
    """The command that trains the twin of the adapter in a folder."""
    return f"ssft train {adapter / RUN} method=lora --output {peers / 'twin'}"


def twin_differences(adapter: Path, twin: Path) -> list[str]:
    """Settings that decide a training and are not the same in both folders' run.yaml: `training.seed (1, None)`.

    Data files are compared by name, since runs start in different folders. A folder without run.yaml says nothing,
    which is told as `UNKNOWN`.
    """
    from ssft.recipes.recipe import load_recipe

    if not all((folder / RUN).is_file() for folder in (adapter, twin)):
        return [UNKNOWN]
    left, right = (_deciding(load_recipe(folder / RUN)) for folder in (adapter, twin))
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return [f"{key} ({left.get(key)!r:.30}, {right.get(key)!r:.30})" for key in keys]


def _deciding(recipe: Any) -> dict[str, Any]:
    """Dotted key -> value of all that decides what a recipe trains, streams aside."""
    values = {key: getattr(recipe, key) for key in ("base", "quantization")}
    values["adapter"] = Path(recipe.adapter).name
    for key, value in asdict(recipe.data).items():
        # Validation rows decide nothing.
        if not key.startswith(("validation", "max_validation")):
            values[f"data.{key}"] = Path(value).name if key == "train" else value
    for key in ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "bias"):
        value = getattr(recipe.lora, key)
        values[f"lora.{key}"] = sorted(value) if isinstance(value, set) else value
    for key, value in recipe.training.items():
        if not key.startswith((*_REPORTING, *_STREAMS)):
            values[f"training.{key}"] = value
    return values


def methods_from(text: str) -> list[str] | None:
    """`--methods`: checked names, the baseline first; None for `all`."""
    from ssft.bench.methods import parse_methods

    if ALL in (name.strip() for name in text.split(",")):
        if text.strip() != ALL:
            raise ConfigError(f"--methods {text}: all stands alone; leave it out, or the other names")
        return None
    return parse_methods(text)


def ready_methods(names: Sequence[str] | None, setting: Setting) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Name -> method ready to run, and name -> why it cannot.

    With `names` None (all) a method that cannot run is left out, the baseline aside. Named methods must run: their
    `SSFTError`s are raised, and the second value is None, which tells `measure` to do likewise.
    """
    if names is not None:
        return build_methods(names, setting), None
    methods = build_methods([REFERENCE], setting)
    left_out: dict[str, str] = {}
    for name in method_names()[1:]:  # the baseline is the first
        try:
            methods |= build_methods([name], setting)
        except SSFTError as error:
            left_out[name] = str(error)
    return methods, left_out
