"""Medusa heads trained over the adapter, in the engine and with the tree of the streams."""

from pathlib import Path

from ssft.baselines.medusa import CONFIG, WEIGHTS, load_medusa
from ssft.baselines.medusa_decoder import MedusaDecoder
from ssft.bench.methods import Setting, plain
from ssft.errors import ConfigError

NAME = "medusa"
DESCRIPTION = "Medusa heads on the adapted base, verified in the adapter's tree (arXiv 2401.10774)"
KIND = "speculative"
LOSSLESS = True


class Method(plain.Method):
    """One pass verifies a tree; the heads then draft the next from the last accepted state."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        adapted = setting.adapted
        self.folder = medusa_folder(setting)
        route = None if adapted.router is None else adapted.router.use
        self.heads = load_medusa(self.folder, adapted)
        self.decoder = MedusaDecoder(adapted.hooks, self.heads, adapted.tree, route, adapted.lora)

    def extra_parameters(self) -> int:
        """All heads: blocks and vocabulary matrices."""
        return self.heads.count()

    def extra_bytes(self) -> int:
        """The file of the heads."""
        return (self.folder / WEIGHTS).stat().st_size


def medusa_folder(setting: Setting) -> Path:
    """Where the adapter's heads are; raises `ConfigError` with the command that makes them if they are not there."""
    name = setting.adapted.name
    folder = (setting.peers or Path("outputs/peers") / name) / "medusa"
    if setting.peers is None or not (folder / CONFIG).exists():
        where = "no folder of peers was given (--peers)" if setting.peers is None else f"{folder} holds none"
        raise ConfigError(
            f"{name!r} has no Medusa heads to draft with: {where}; train them on the adapter's data with "
            f"`ssft train baselines/medusa_sql adapter=<folder of {name}> data.train=<its rows> --output {folder}`, or "
            "leave the method medusa out"
        )
    return folder
