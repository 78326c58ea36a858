"""Speculative streaming with the adapter's own streams and tree."""

from typing import Any

from ssft.bench.methods import Setting, _peers, plain
from ssft.bundle.format import STREAM_LORA_WEIGHTS, STREAM_WEIGHTS
from ssft.errors import GenerationError

NAME = "streaming"
DESCRIPTION = "speculative streams of the adapter, verified in a tree (arXiv 2402.11131)"
KIND = "speculative"
LOSSLESS = True


class Method(plain.Method):
    """One pass verifies a tree and drafts the next."""

    drafting: dict[str, Any] = {}  # noqa: RUF012 (never changed)

    def __init__(self, setting: Setting) -> None:
        if setting.adapted.active.streams is None:
            raise GenerationError(
                f"{setting.adapted.active.name!r} has no streams, so it decodes plainly; train an adapter with "
                "`ssft train`, or leave the method streaming out (--methods plain,generate)"
            )
        super().__init__(setting)

    def extra_parameters(self) -> int:
        """P_j and f_η, and the streams' own LoRA where they have one."""
        return int(self.adapted.active.extra_parameters)

    def extra_bytes(self) -> int:
        """The bundle's files of stream weights; nothing for streams that were never saved."""
        bundle = self.adapted.active.bundle
        files = [] if bundle is None else [bundle.path / name for name in (STREAM_WEIGHTS, STREAM_LORA_WEIGHTS)]
        return sum(file.stat().st_size for file in files if file.exists())

    def training(self) -> dict[str, Any]:
        """The adapter's own, LoRA and streams together."""
        bundle = self.adapted.active.bundle
        return {} if bundle is None else _peers.training(bundle.provenance)
