"""`model.generate` of transformers: greedy search with its own dynamic cache, the stock behaviour."""

import time
from collections import defaultdict

import torch
from transformers import GenerationConfig

from ssft.bench.batching import length_batches
from ssft.bench.methods import Setting
from ssft.decoding.request import Generation
from ssft.errors import GenerationError

NAME = "generate"
DESCRIPTION = "model.generate of transformers, greedy, dynamic cache"
KIND = "plain"
LOSSLESS = True


def truncate(ids: list[int], budget: int, eos: set[int]) -> tuple[list[int], str]:
    """Ids up to and with the first EOS, at most `budget`; and the finish reason, "eos" or "length"."""
    ids = ids[:budget]
    stop = next((place for place, token in enumerate(ids) if token in eos), None)
    return (ids, "length") if stop is None else (ids[: stop + 1], "eos")


class Method:
    """Greedy search of transformers over the same model, with the same low-rank products as the other methods."""

    def __init__(self, setting: Setting) -> None:
        self.adapted = setting.adapted
        self.max_new_tokens = setting.max_new_tokens
        self.batch_size = setting.batch_size
        self.context = self.adapted.hooks.backbone.context_length

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Greedy continuation of each prompt, in order; calls == tokens.

        seconds: wall clock of the row's whole batch, since `generate` returns all rows at once.

        Raises:
            GenerationError: an empty prompt, or one that leaves no room in the model's context.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            groups[self._budget(prompt)].append(index)
        results: dict[int, Generation] = {}
        # Rows that may produce equally many tokens go together, so that none runs past its context.
        for budget, group in groups.items():
            for batch in length_batches([len(prompts[index]) for index in group], self.batch_size):
                rows = [group[place] for place in batch]
                results.update(zip(rows, self._batch([prompts[row] for row in rows], budget), strict=True))
        return [results[index] for index in range(len(prompts))]

    def extra_parameters(self) -> int:
        """None."""
        return 0

    def extra_bytes(self) -> int:
        """None."""
        return 0

    def _budget(self, prompt: list[int]) -> int:
        if not 0 < len(prompt) < self.context:
            raise GenerationError(
                f"a prompt has {len(prompt)} tokens; it needs at least one and fewer than the model's context of "
                f"{self.context}"
            )
        return min(self.max_new_tokens, self.context - len(prompt))

    @torch.inference_mode()
    def _batch(self, prompts: list[list[int]], budget: int) -> list[Generation]:
        begin = time.perf_counter()
        eos = self.adapted.eos_token_ids
        pad = getattr(self.adapted.tokenizer, "pad_token_id", None)
        pad = pad if pad is not None else min(eos, default=0)
        width = max(len(prompt) for prompt in prompts)
        device = self.adapted.model.device
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        # What is left unset is filled in from the model's own generation settings, such as a repetition penalty.
        settings = GenerationConfig(
            max_new_tokens=budget,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            min_length=0,
            # No token has the id after the last: without one, the model's own EOS would be filled in.
            eos_token_id=sorted(eos) or [self.adapted.hooks.backbone.config.vocab_size],
            pad_token_id=pad,
            use_cache=True,
        )
        with self.adapted.applied(len(prompts)):
            output = self.adapted.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        produced = output[:, width:].tolist()
        seconds = time.perf_counter() - begin
        results = []
        for row in produced:
            tokens, reason = truncate(row, budget, eos)
            results.append(Generation(tokens, calls=len(tokens), finish_reason=reason, seconds=seconds))
        return results
