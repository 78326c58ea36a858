"""What the results of `ssft verify` and `ssft eval` have in common, so that `ssft card` can tell whose they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssft.cli._command_line import command_line

if TYPE_CHECKING:
    from ssft.runtime.loader import AdaptedModel


def result_facts(kind: str, adapted: AdaptedModel, data: Path | None) -> dict[str, Any]:
    """Kind, command, adapter with its hash, the training method that made it and what it was trained on (all empty for
    the bare base, the last two where the folder does not tell), data with its hash (None: the adapter's own validation
    rows), device, precision and tree."""
    from ssft.bench.answers import weights_sha256
    from ssft.bench.card_rows import describe_data
    from ssft.runs.provenance import method_of, told_by
    from ssft.runs.twin import training_of

    folder = None if adapted.bundle is None else adapted.bundle.path
    provenance = {} if folder is None else told_by(folder)
    return {
        "kind": kind,
        "command": command_line(),
        "adapter": adapted.name,
        "adapter_sha256": weights_sha256(adapted),
        "method": method_of(provenance),
        "trained_on": {} if folder is None else training_of(folder, provenance),
        "data": describe_data(data),
        "device": adapted.device,
        "precision": adapted.precision,
        "tree": adapted.tree,
    }
