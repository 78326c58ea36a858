"""Stop strings: texts that end a sequence, wherever the boundaries of its tokens lie."""

from collections.abc import Sequence

from ssft.decoding.text import Decode, GrowingText
from ssft.errors import GenerationError


class StopStrings:
    """Ends a sequence at the first of several strings; `Request.stop` of one sequence.

    Looks at the text and not at the tokens, so that a stop string is found that is split over tokens, or completed in
    the middle of one. The token that completes it is kept in the ids; `cut` takes its text away.
    """

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        """`decode`: token ids -> text, the same as for the text that is shown.

        Raises:
            GenerationError: an empty stop string.
        """
        self.strings = (strings,) if isinstance(strings, str) else tuple(strings)
        if not all(self.strings):
            raise GenerationError(
                f"stop strings {list(self.strings)!r} hold an empty one, which would end every text before its first "
                "token; leave it out of stop"
            )
        self._growing = GrowingText(decode)

    def __call__(self, token_ids: list[int]) -> bool:
        """Whether the text of the produced tokens holds a stop string."""
        text = self._growing.read(token_ids)
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        """Text before the stop string that begins first; all of it if there is none."""
        begins = [begin for string in self.strings if (begin := text.find(string)) >= 0]
        return text[: min(begins, default=len(text))]

    def open_end(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning, but not the whole, of a stop string."""
        longest = max((len(string) for string in self.strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(len(string) > length and string.startswith(end) for string in self.strings):
                return length
        return 0
