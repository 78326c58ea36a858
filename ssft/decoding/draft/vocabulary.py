"""`DraftVocabulary`: the token ids that an adapter's streams guess from, in place of the base's whole vocabulary.

The head runs twice in a pass: on the nodes, where it verifies and decides the text, and on the streams of one node,
where it only guesses. The first needs every token id. The second needs those that the task uses, some thousands, and
those of the request's own prompt, from which answers copy names. A token that is in neither is never drafted, which
costs a pass and changes no text.

    places   0 … v−1                     v … v+e−1
    ids      the adapter's, sorted       those of the row's prompt that the adapter does not have, sorted
    head     rows gathered once, [v, h]  rows gathered at the row's first draft, [e, h]
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssft.base.head import HeadColumns, HeadRows
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.row import Row

Rows = HeadRows | HeadColumns
Gather = Callable[[Tensor], Rows]
"""Token ids [v] -> the head over them alone, with what the adapter's LoRA adds to it."""


@dataclass(frozen=True)
class RowVocabulary:
    """What one row is guessed from: its token ids by place, their places, and the head's rows that its prompt adds."""

    ids: list[int]
    places: Mapping[int, int]
    rows: Rows | None

    def named(self, guesses: Guesses) -> Guesses:
        """Guessed places as token ids; places behind the row's last one are padding, and are left out."""
        kept = [
            [(self.ids[place], score) for place, score in zip(places, scores, strict=True) if place < len(self.ids)]
            for places, scores in zip(guesses.tokens, guesses.scores, strict=True)
        ]
        return Guesses([[t for t, _ in stream] for stream in kept], [[score for _, score in stream] for stream in kept])


class DraftVocabulary:
    """The token ids that the streams of one adapter guess from, with the head's rows for them."""

    def __init__(self, ids: Tensor, gather: Gather) -> None:
        """ids [v]: sorted, each once."""
        self.ids: list[int] = ids.tolist()
        self.rows = gather(ids)
        self._places = {token: place for place, token in enumerate(self.ids)}
        self._gather = gather

    @property
    def nbytes(self) -> int:
        """Bytes of the head's rows that it keeps."""
        return self.rows.nbytes

    def logits(
        self, rows: Sequence[Row], head: Callable[[Sequence[Row], Tensor, Rows], Tensor], hidden: Tensor
    ) -> Tensor:
        """Finished states [d, g, h] of d rows -> logits [d, g, v + e] by place, float32; -inf where a row has fewer.

        `head`: `Step.logits`.
        """
        logits = head(rows, hidden, self.rows).float()
        own = [self.of(row) for row in rows]
        width = max(len(vocabulary.ids) for vocabulary in own) - len(self.ids)
        if not width:
            return logits
        added = logits.new_full((*logits.shape[:-1], width), -torch.inf)
        for b, (row, vocabulary) in enumerate(zip(rows, own, strict=True)):
            if vocabulary.rows is not None:
                found = head([row], hidden[b : b + 1], vocabulary.rows)
                added[b : b + 1, :, : found.shape[-1]] = found
        return torch.cat((logits, added), dim=-1)

    def of(self, row: Row) -> RowVocabulary:
        """The adapter's token ids and those of the row's prompt, which are gathered once."""
        if row.of_drafter is None:
            more = sorted(set(row.request.prompt) - self._places.keys())
            added = {token: len(self.ids) + place for place, token in enumerate(more)}
            rows = self._gather(torch.tensor(more)) if more else None
            row.of_drafter = RowVocabulary(self.ids + more, ChainMap(added, self._places), rows)
        found: RowVocabulary = row.of_drafter
        return found
