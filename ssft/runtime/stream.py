"""`TextStream`: the text of one prompt while it is being produced."""

from collections.abc import Generator, Iterator
from typing import Any

from ssft.decoding.request import Generation
from ssft.decoding.text import Decode, TextPieces
from ssft.runtime.jobs import Job


class TextStream(Iterator[str]):
    """Pieces of text in their order; joined they are what `generate` returns.

    output: what `generate(return_dict=True)` returns of what was produced so far. Closing the stream cancels the rest.
    """

    def __init__(self, job: Job, passes: Generator[list[Generation], None, None], decode: Decode) -> None:
        self._job, self._passes, self._decode = job, passes, decode
        self._pieces = TextPieces(decode, job.stop)
        self._result = Generation()

    def __next__(self) -> str:
        for (result,) in self._passes:
            self._result = result
            piece = self._pieces.push(self._job.text_ids(result), last=bool(result.finish_reason))
            if piece:
                return piece
        raise StopIteration

    def close(self) -> None:
        """Cancel what is not produced yet."""
        self._passes.close()

    @property
    def output(self) -> dict[str, Any]:
        """Text, token ids, tokens, calls, accepted, seconds, finish_reason and adapter, as they are now."""
        return self._job.output(self._result, self._decode)
