"""Drafts from the streams of the node where verification stopped (paper §3.2.2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ssft.decoding.draft.drafter import Drafter, Guesses, Stop, most_likely
from ssft.decoding.draft.vocabulary import DraftVocabulary
from ssft.streams.modules import StreamModules

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step


class StreamDrafter(Drafter):
    """Stream j's guess is the token j places after the one just issued."""

    def __init__(self, streams: StreamModules, vocabulary: DraftVocabulary | None = None) -> None:
        """`vocabulary`: the token ids that are guessed; None: all that the base has."""
        self.streams: StreamModules = streams
        self.vocabulary = vocabulary

    @property
    def reach(self) -> int:  # type: ignore[override]
        """γ."""
        return self.streams.config.num_streams

    @property
    def group(self) -> object:
        """All streams over one vocabulary together, whichever adapter they are of: a pass leaves the states of all."""
        return self.vocabulary or StreamDrafter

    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """Streams of nodes that carried none propose nothing: see `TreeConfig.max_stream_nodes`.

        Over a draft vocabulary a token's probability is the one among the tokens of that vocabulary: the softmax leaves
        all others out, which lifts the probabilities a little.
        """
        found: list[Guesses | None] = [None] * len(stops)
        places = [i for i, stop in enumerate(stops) if stop.node in states.sources[stop.b]]
        if states.streams is None or not places:
            return found
        with_streams = [stops[i] for i in places]
        picked = torch.stack([states.streams[stop.b, states.sources[stop.b].index(stop.node)] for stop in with_streams])
        rows, hidden = [stop.row for stop in with_streams], step.backbone.finish(picked)
        if self.vocabulary is None:
            guessed = most_likely(step.logits(rows, hidden).float(), with_streams)
        else:
            by_place = most_likely(self.vocabulary.logits(rows, step.logits, hidden), with_streams)
            guessed = [self.vocabulary.of(row).named(guess) for row, guess in zip(rows, by_place, strict=True)]
        for i, guesses in zip(places, guessed, strict=True):
            found[i] = guesses
        return found
