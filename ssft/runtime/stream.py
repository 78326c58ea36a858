"""The text of a batch's first row while it is being produced: as a `TextStream`, or for transformers' streamers."""

import threading
from collections.abc import Generator, Iterator
from typing import Any

import torch

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


def followed(
    passes: Generator[list[Generation], None, None], prompt: list[int], streamer: Any, cancel: threading.Event | None
) -> list[Generation]:
    """Run the passes to their end, or until `cancel` is set; `streamer` is told the first row, its prompt first."""
    shown = 0
    results: list[Generation] = []
    try:
        if streamer is not None:
            streamer.put(torch.tensor(prompt))
        for results in passes:
            if streamer is not None and results[0].token_ids[shown:]:
                streamer.put(torch.tensor(results[0].token_ids[shown:]))
                shown = len(results[0].token_ids)
            if cancel is not None and cancel.is_set():
                break
    finally:
        passes.close()
        if streamer is not None:
            streamer.end()
    return results
