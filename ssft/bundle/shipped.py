"""The adapters that come with ssft, for who has no clone: `adapters/sql` names them from any working folder."""

import os
from pathlib import Path

from ssft.errors import BundleError
from ssft.schema import is_hub_id

FOLDER = "adapters"


def shipped_adapters() -> dict[str, Path]:
    """`adapters/NAME` -> folder: inside the package in a wheel, beside it in the source tree."""
    package = Path(__file__).parent.parent
    packaged = package / "_adapters"
    folder = packaged if packaged.is_dir() else package.parent / FOLDER
    return {f"{FOLDER}/{path.parent.name}": path.parent for path in sorted(folder.glob("*/adapter_config.json"))}


def check_adapter_name(name: str) -> None:
    """Raise `BundleError` for what is neither a folder here, nor shipped, nor has the form of a hub's repository."""
    if local_adapter(name) is None and not is_hub_id(name):
        raise BundleError(
            f"adapter {name!r} is no folder; give the folder that `ssft train --output` wrote, one that comes with "
            f"ssft ({', '.join(shipped_adapters()) or 'none here'}), or a repository of the hub as owner/name"
        )


def local_adapter(name: str | os.PathLike[str]) -> Path | None:
    """The folder that `name` means without the hub: an existing path, else a shipped adapter; none if it is neither."""
    return Path(name) if os.path.lexists(name) else shipped_adapters().get(Path(name).as_posix())
