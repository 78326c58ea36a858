"""Plain greedy decoding: the engine of the streams with a draft of nothing, so that only speculation differs."""

from typing import Any

from ssft.bench.batching import length_batches
from ssft.decoding.request import Generation

NAME = "plain"
DESCRIPTION = "greedy decoding, one token per pass, in the engine that also decodes with streams"
LOSSLESS = True


class Method:
    """One token per pass of the adapted model."""

    streaming = False

    def __init__(self, adapted: Any, max_new_tokens: int, batch_size: int) -> None:
        self.adapted = adapted
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.decoder = adapted.decoder(streaming=self.streaming, tree=adapted.tree)

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Greedy continuation of each prompt, in order."""
        results: dict[int, Generation] = {}
        for batch in length_batches([len(prompt) for prompt in prompts], self.batch_size):
            done = self.decoder.generate(
                [prompts[index] for index in batch], self.max_new_tokens, self.adapted.eos_token_ids
            )
            results.update(zip(batch, done, strict=True))
        return [results[index] for index in range(len(prompts))]

    def extra_parameters(self) -> int:
        """None."""
        return 0
