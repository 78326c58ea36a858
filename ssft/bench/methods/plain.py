"""Plain decoding: the loop of the streams without a drafter, so that only speculation differs."""

from typing import Any

from ssft.bench.methods import DecodingMethod
from ssft.decoding.request import Generation


class Method(DecodingMethod):
    """One token per pass of the adapted model."""

    DESCRIPTION = "decoding of one token per pass in the loop that also decodes with streams"
    KIND = "plain"
    SAMPLES = True
    drafting: dict[str, Any] = {"speculate": False}  # noqa: RUF012 (never changed)
    """What `MultiAdapterModel.complete` is told of drafts."""

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        how = {**self.drafting, **self.sampling}
        results: list[Generation] = self.adapted.complete(
            prompts, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size, **how
        )
        return results
