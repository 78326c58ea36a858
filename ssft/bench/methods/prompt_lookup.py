"""Prompt lookup of transformers: what followed the last two tokens earlier in the text is the draft.

The settings are transformers' own: at most 10 tokens per draft (the number in its documentation), found by the last
two tokens or else the last one, the first match from the left (`max_matching_ngram_size=2`). Nothing is trained.
"""

from typing import Any

from ssft.bench.methods import _transformers
from ssft.errors import GenerationError

DRAFT_TOKENS = 10


class Method(_transformers.DraftingMethod):
    """`generate(prompt_lookup_num_tokens=10)`."""

    DESCRIPTION = "prompt lookup of transformers: n-grams of the prompt and of the text so far as the draft"

    def _settings(self, prompts: list[list[int]], budget: int) -> dict[str, Any]:
        return {"prompt_lookup_num_tokens": DRAFT_TOKENS}

    def budget(self, prompt: list[int]) -> int:
        """Refuses what would end in an index error: a draft is not cut to what the budget or the context leave."""
        budget, context = super().budget(prompt), self.backbone.context_length
        # The last draft is made when two tokens are left.
        longest = len(prompt) + budget - 2 + DRAFT_TOKENS
        if budget > 1 and longest > context and self.backbone.learned_positions:
            raise GenerationError(
                f"a prompt of {len(prompt)} tokens and {budget} new ones: a draft of prompt_lookup may reach place "
                f"{longest}, and this model has learned positions for {context}; shorten the prompt, lower "
                "--max-new-tokens, or leave prompt_lookup out of --methods"
            )
        return budget
