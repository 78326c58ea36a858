"""Medusa heads trained over the adapter, in the loop and with the tree of the streams."""

from ssft.bench.methods import Setting, _peers, plain
from ssft.decoding.draft.medusa import MedusaDrafter
from ssft.runs.medusa_folder import CONFIG, WEIGHTS, load_medusa


class Method(plain.Method):
    """One pass verifies a tree; the heads then draft the next from the last accepted state."""

    DESCRIPTION = "Medusa heads on the adapted base, verified in the adapter's tree (arXiv 2401.10774)"
    KIND = "speculative"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        folder = _peers.find_part(setting, self.name, "medusa", CONFIG, "Medusa heads")
        self.heads = load_medusa(folder, setting.adapted)
        self.drafting = {"drafter": MedusaDrafter(self.heads)}
        self.extra_parameters = self.heads.count()
        self.extra_bytes = (folder / WEIGHTS).stat().st_size
        self.training = _peers.training(folder)  # the heads'; the adapter's own comes before it
