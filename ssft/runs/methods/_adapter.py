"""What the methods have in common whose result is an adapter's folder."""

from pathlib import Path

from ssft.bundle.format import is_bundle
from ssft.bundle.write import check_replaceable
from ssft.card.notes import carried_over
from ssft.runs.methods import TrainingMethod


class AdapterMethod(TrainingMethod):
    """A method that writes a bundle."""

    product = "adapter"

    def may_replace(self, output: Path) -> bool:
        if not is_bundle(output):
            return False
        # What an adapter's folder holds beside its own files would be lost: said before hours are spent.
        check_replaceable(output)
        carried_over(output)
        return True
