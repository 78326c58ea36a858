"""What the methods have in common that train something to compare an adapter with."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from ssft.bundle.format import PROVENANCE, RUN, is_bundle
from ssft.files import whole_folder, write_sorted_json
from ssft.recipes.recipe import Recipe
from ssft.runs.methods import TrainingMethod
from ssft.runs.provenance import method_of, told_by
from ssft.runs.run import PreparedRun


class Peer(TrainingMethod):
    """A method whose result goes to `outputs/peers/<the adapter's folder>/<part>`, where comparisons look."""

    part: ClassVar[str]
    """Name of the folder that a comparison looks for."""

    def default_output(self, recipe: Recipe, source: Path | None) -> Path:
        """A run.yaml says by where it lies which adapter this is a peer of; any other recipe is a peer of the adapter
        that has its name."""
        name = recipe.name
        if source is not None and source.name == RUN:
            folder = source.resolve().parent
            again = folder.name == self.part and self.may_replace(folder)  # an earlier result's own run.yaml
            name = folder.parent.name if again else folder.name if is_bundle(folder) else name
        return Path("outputs") / "peers" / name / self.part

    def may_replace(self, output: Path) -> bool:
        return method_of(told_by(output)) == self.name

    def write(self, run: PreparedRun, trainer: Any, provenance: dict[str, Any], output: Path) -> None:
        with whole_folder(output, self.check_output) as folder:
            (folder / RUN).write_text(run.run_yaml, encoding="utf-8")
            write_sorted_json(folder / PROVENANCE, {**provenance, "base": run.fingerprint})
            self.fill(folder, run, trainer)

    @abstractmethod
    def fill(self, folder: Path, run: PreparedRun, trainer: Any) -> None:
        """Write what was trained into a new folder, beside `run.yaml` and `provenance.json`, and check it."""
