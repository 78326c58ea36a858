"""Plain greedy decoding: the engine of the streams with a draft of nothing, so that only speculation differs."""

from typing import Any

from ssft.bench.answers import run_in_batches
from ssft.bench.methods import Setting
from ssft.decoding.request import Generation

NAME = "plain"
DESCRIPTION = "greedy decoding, one token per pass, in the engine that also decodes with streams"
KIND = "plain"
LOSSLESS = True


class Method:
    """One token per pass of the adapted model."""

    streaming = False

    def __init__(self, setting: Setting) -> None:
        self.adapted = setting.adapted
        self.max_new_tokens = setting.max_new_tokens
        self.batch_size = setting.batch_size
        self.decoder = self.adapted.decoder(streaming=self.streaming, tree=self.adapted.tree)

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Greedy continuation of each prompt, in order."""
        return run_in_batches(prompts, self.batch_size, self._decode)

    def _decode(self, prompts: list[list[int]]) -> list[Generation]:
        return self.decoder.generate(prompts, self.max_new_tokens, self.adapted.eos_token_ids)

    def extra_parameters(self) -> int:
        """None."""
        return 0

    def extra_bytes(self) -> int:
        """None."""
        return 0

    def training(self) -> dict[str, Any]:
        """None."""
        return {}
