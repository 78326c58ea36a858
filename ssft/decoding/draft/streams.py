"""Drafts from the streams of the node where verification stopped (paper §3.2.2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ssft.decoding.draft.drafter import Drafter, Guesses, Stop, most_likely
from ssft.streams.modules import StreamModules

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step


class StreamDrafter(Drafter):
    """Stream j's guess is the token j places after the one just issued."""

    def __init__(self, streams: StreamModules) -> None:
        self.streams: StreamModules = streams

    @property
    def reach(self) -> int:  # type: ignore[override]
        """γ."""
        return self.streams.config.num_streams

    @property
    def group(self) -> object:
        """All streams together, whichever adapter they are of: a pass leaves the states of all."""
        return StreamDrafter

    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """Streams of nodes that carried none propose nothing: see `TreeConfig.max_stream_nodes`."""
        found: list[Guesses | None] = [None] * len(stops)
        places = [i for i, stop in enumerate(stops) if stop.node in states.sources[stop.b]]
        if states.streams is None or not places:
            return found
        with_streams = [stops[i] for i in places]
        picked = torch.stack([states.streams[stop.b, states.sources[stop.b].index(stop.node)] for stop in with_streams])
        logits = step.logits([stop.row for stop in with_streams], step.backbone.finish(picked)).float()
        for place, guesses in zip(places, most_likely(logits, with_streams), strict=True):
            found[place] = guesses
        return found
