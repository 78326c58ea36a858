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

    streaming = True

    def __init__(self, setting: Setting) -> None:
        if setting.adapted.streams is None:
            raise GenerationError(
                f"{setting.adapted.name!r} has no streams, so it decodes plainly; train an adapter with `ssft train`, "
                "or leave the method streaming out (--methods plain,generate)"
            )
        super().__init__(setting)

    def extra_parameters(self) -> int:
        """P_j and f_η, and the streams' own LoRA where they have one."""
        own = [] if self.adapted.bundle is None else self.adapted.bundle.loras[1:]
        return int(self.adapted.streams.count()) + sum(part.parameters for part in own)

    def extra_bytes(self) -> int:
        """The bundle's files of stream weights; nothing for streams that were never saved."""
        bundle = self.adapted.bundle
        files = [] if bundle is None else [bundle.path / name for name in (STREAM_WEIGHTS, STREAM_LORA_WEIGHTS)]
        return sum(file.stat().st_size for file in files if file.exists())

    def training(self) -> dict[str, Any]:
        """The adapter's own, LoRA and streams together."""
        bundle = self.adapted.bundle
        return {} if bundle is None else _peers.training(bundle.provenance)
