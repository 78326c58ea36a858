"""What an adapter is compared with: the methods that can run here, and the folder with what they were trained to.

<root>/<adapter's name>/medusa    Medusa heads over the adapted base
                        draft     a small model that drafts for it
                        twin      the same training without streams: a plain LoRA
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssft.bench.methods import REFERENCE, Setting, build_methods, method_names
from ssft.bundle.format import RUN
from ssft.errors import ConfigError, SSFTError

Ready = tuple[dict[str, Any], dict[str, str] | None]
"""Name -> method ready to run, and name -> why it cannot."""
PARTS = ("medusa", "draft", "twin")


def peers_folder(root: Path | None, name: str) -> Path | None:
    """The folder of the adapter `name` under `--peers`, which need not exist; None without a root.

    Raises:
        ConfigError: `root` is no folder, or is an adapter's own folder.
    """
    if root is None:
        return None
    if not root.is_dir():
        raise ConfigError(f"--peers {root}: no such folder; give the folder that holds {name}/ with {', '.join(PARTS)}")
    held = [part for part in PARTS if (root / part).is_dir()]
    if held and not (root / name).is_dir():
        raise ConfigError(
            f"--peers {root} holds {', '.join(held)} itself; give the folder above it, which holds a folder per "
            f"adapter, such as {name}/"
        )
    return root / name


def twin_folder(peers: Path | None) -> Path | None:
    """The folder of the plain-LoRA twin if there is one."""
    return peers / "twin" if peers is not None and (peers / "twin").is_dir() else None


def twin_command(adapter: Path, peers: Path) -> str:
    """The command that trains the twin of the adapter in a folder."""
    return f"ssft train {adapter / RUN} method=lora --output {peers / 'twin'}"


def ready_methods(names: Sequence[str] | None, setting: Setting) -> Ready:
    """The methods that are asked for.

    With `names` None (all) a method that cannot run is left out, the reference aside. Named methods must run: their
    `SSFTError`s are raised, and the second value is None, which tells `measure` to do likewise.
    """
    if names is not None:
        return build_methods(names, setting), None
    methods: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in method_names():
        try:
            methods |= build_methods([name], setting)
        except SSFTError as error:
            if name == REFERENCE:
                raise
            left_out[name] = str(error)
    return methods, left_out
