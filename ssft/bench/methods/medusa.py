"""Medusa heads trained over the adapter, in the loop and with the tree of the streams."""

from typing import Any

from ssft.bench.methods import Setting, _peers, plain
from ssft.decoding.draft.medusa import MedusaDrafter
from ssft.runs.medusa_folder import CONFIG, WEIGHTS, load_medusa

NAME = "medusa"
DESCRIPTION = "Medusa heads on the adapted base, verified in the adapter's tree (arXiv 2401.10774)"
KIND = "speculative"
LOSSLESS = True

FOLDER = "medusa"


class Method(plain.Method):
    """One pass verifies a tree; the heads then draft the next from the last accepted state."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.folder = _peers.find_part(setting, NAME, FOLDER, CONFIG, "Medusa heads")
        self.heads = load_medusa(self.folder, setting.adapted)
        self.drafting = {"drafter": MedusaDrafter(self.heads)}

    def extra_parameters(self) -> int:
        """All heads: blocks and vocabulary matrices."""
        return self.heads.count()

    def extra_bytes(self) -> int:
        """The file of the heads."""
        return (self.folder / WEIGHTS).stat().st_size

    def training(self) -> dict[str, Any]:
        """The heads'; the adapter's own comes before it."""
        return _peers.read_training(self.folder)
