"""Token ids to text while they are still being produced: what is final can be shown, the rest is held back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssft.decoding.stops import StopStrings

Decode = Callable[[list[int]], str]
"""Token ids -> text, for example a tokenizer's `decode` with skip_special_tokens=True."""

INCOMPLETE = "\ufffd"
"""What decoders write for bytes that are not (yet) a whole character."""

WINDOW = 8
"""Tokens decoded again in front of new ones, since a token's text may depend on those before it."""


class GrowingText:
    """`decode(ids)` of a sequence that grows, by decoding its last few tokens only.

    Decoding all of it after every token would cost time quadratic in the length. Any ids may be given; those that do
    not continue the ones before are decoded anew.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self._ids: list[int] = []
        self._text = ""
        # Lengths at which the text ended with a whole character: only there may a window begin.
        self._marks = [0]

    def read(self, ids: list[int]) -> str:
        """Text of ids."""
        known = len(self._ids)
        if ids[:known] != self._ids:
            self._ids, self._text, self._marks, known = [], "", [0], 0
        begin = next(mark for mark in reversed(self._marks) if mark <= max(0, known - WINDOW))
        text = self.decode(ids[begin:])
        if begin:
            before = self.decode(ids[begin:known])
            # New tokens may change the text of earlier ones, and a decoder may drop a space where its text begins.
            whole = before and text.startswith(before)
            text = self._text + text[len(before) :] if whole else self.decode(ids)
        if len(ids) > known and not text.endswith(INCOMPLETE):
            self._ids, self._text = list(ids), text
            self._marks = [*(mark for mark in self._marks if mark >= begin), len(ids)]
        return text


class TextPieces:
    """Text of one sequence, piece by piece: joined, the pieces are `decode(all ids)` up to the first stop string.

    >>> pieces = TextPieces(tokenizer.decode, StopStrings(["\\n\\n"], tokenizer.decode))
    >>> for results in engine.decode([request]):
    ...     print(pieces.push(results[0].token_ids, last=bool(results[0].finish_reason)), end="")

    A tokenizer that rewrites the text of earlier tokens (clean_up_tokenization_spaces may take a space away, a broken
    byte may break the characters before it) can contradict what was given already. Nothing is given then until the
    text continues it again; if it never does, the last piece is all that comes after what the two have in common.
    """

    def __init__(self, decode: Decode, stops: StopStrings | None = None) -> None:
        """`stops` end the text; without them it ends with the ids."""
        self.decode = decode
        self.stops = stops
        self._growing = GrowingText(decode)
        self._given = ""

    def push(self, token_ids: list[int], last: bool = False) -> str:
        """All token ids produced so far -> the text that has become final since the call before.

        Held back are the bytes of an incomplete character and an end that may become a stop string, until `last`.
        Nothing may be pushed after `last`.
        """
        if last:
            text = self.decode(token_ids)
            final = text if self.stops is None else self.stops.cut(text)
            # The shorter of the two ends the common beginning, so their lengths may differ.
            same = takewhile(lambda pair: pair[0] == pair[1], zip(self._given, final, strict=False))
            piece = final[sum(1 for _ in same) :]
        else:
            # Bytes of one character may show as several replacement characters.
            text = self._growing.read(token_ids).rstrip(INCOMPLETE)
            final = text
            if self.stops is not None:
                # A longer stop string may begin before one that is complete already.
                final = text[: min(len(self.stops.cut(text)), len(text) - self.stops.open_end(text))]
            piece = final[len(self._given) :] if final.startswith(self._given) else ""
        self._given += piece
        return piece
