"""Speculative streaming with the adapter's own streams and tree."""

from typing import Any

from ssft.bench.methods import Setting, _peers, plain
from ssft.bundle.format import STREAM_LORA_WEIGHTS, STREAM_WEIGHTS
from ssft.errors import GenerationError


class Method(plain.Method):
    """One pass verifies a tree and drafts the next."""

    DESCRIPTION = "speculative streams of the adapter, verified in a tree (arXiv 2402.11131)"
    KIND = "speculative"
    drafting: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        if self.adapted.active.streams is None:
            raise GenerationError(
                f"{self.adapted.active.name!r} has no streams, so it decodes plainly; train an adapter with "
                "`ssft train`, or leave the method streaming out (--methods plain,generate)"
            )
        self.extra_parameters = int(self.adapted.active.extra_parameters)
        bundle = self.adapted.active.bundle
        if bundle is not None:  # streams that were saved
            files = [bundle.path / name for name in (STREAM_WEIGHTS, STREAM_LORA_WEIGHTS)]
            self.extra_bytes = sum(file.stat().st_size for file in files if file.exists())
            self.training = _peers.training(bundle.path)
