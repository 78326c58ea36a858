"""What the methods that run transformers' own `generate` share: settings, budgets, counting, truncation, times."""

import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ssft.bench.methods import DecodingMethod
from ssft.decoding.request import Generation
from ssft.runtime.batching import run_in_batches


def truncate(ids: list[int], budget: int, eos: set[int]) -> tuple[list[int], str]:
    """Ids up to and with the first EOS, at most `budget`; and the finish reason, "eos" or "length"."""
    ids = ids[:budget]
    stop = next((place for place, token in enumerate(ids) if token in eos), None)
    return (ids, "length") if stop is None else (ids[: stop + 1], "eos")


class Watch(StoppingCriteria):
    """Stops nothing; transformers asks it after every pass, and it notes when the first token was there.

    first: seconds from its making until it was first asked. lengths: of the sequence, prompt included, each time.
    """

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.first = 0.0
        self.lengths: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """input_ids [B, t] -> False for each of B rows."""
        if not self.lengths:
            # Reading a token waits for the device, without which only the queueing would be timed.
            int(input_ids[0, -1])
            self.first = time.perf_counter() - self.begin
        self.lengths.append(input_ids.shape[1])
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class GenerateMethod(DecodingMethod):
    """Greedy search of transformers over the adapted model; a subclass says what it does differently."""

    def run(self, prompts: list[list[int]]) -> list[Generation]:
        """Greedy continuation of each prompt, in order.

        seconds, prompt_seconds: wall clock of the row's whole batch, since `generate` returns all rows at once, and
        until the batch's first tokens were there.

        Raises:
            GenerationError: an empty prompt, or one that leaves no room in the model's context.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            groups[self.budget(prompt)].append(index)
        results: dict[int, Generation] = {}
        # Rows that may produce equally many tokens go together, so that none runs past its context.
        for budget, group in groups.items():
            own = [prompts[row] for row in group]

            def run(batch: list[int], own: list[list[int]] = own, budget: int = budget) -> list[Generation]:
                return self._batch([own[place] for place in batch], budget)

            results.update(zip(group, run_in_batches(list(map(len, own)), self.batch_size, run), strict=True))
        return [results[index] for index in range(len(prompts))]

    # -- what subclasses change ---------------------------------------------------------------------------------

    def _settings(self, prompts: list[list[int]], budget: int) -> dict[str, Any]:
        """Further fields of the `GenerationConfig`."""
        return {}

    def _arguments(self) -> dict[str, Any]:
        """Further arguments of `generate`."""
        return {}

    def _generate(self, rows: int, arguments: dict[str, Any]) -> Tensor:
        """`generate` of `rows` rows -> ids [rows, t], prompts included."""
        with self.adapted.applied(rows):
            return self.adapted.model.generate(**arguments)

    # -- the same for all ---------------------------------------------------------------------------------------

    def _batch(self, prompts: list[list[int]], budget: int) -> list[Generation]:
        """Plain search: every token of a row took one pass."""
        rows, watch, seconds = self._search(prompts, budget)
        results = []
        for row in rows:
            ids, reason = truncate(row, budget, self.adapted.eos_token_ids)
            results.append(Generation(ids, len(ids), [], reason, seconds, watch.first))
        return results

    @torch.inference_mode()
    def _search(self, prompts: list[list[int]], budget: int) -> tuple[list[list[int]], Watch, float]:
        """Produced ids of each prompt, padding included; what was noted on the way; seconds in all."""
        watch = Watch()
        eos = sorted(self.adapted.eos_token_ids)
        pad = getattr(self.adapted.tokenizer, "pad_token_id", None)
        pad = pad if pad is not None else min(eos, default=0)
        width = max(len(prompt) for prompt in prompts)
        device = self.adapted.model.device
        ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        # What is left unset is filled in from the model's own generation settings, such as a repetition penalty.
        settings = GenerationConfig(
            max_new_tokens=budget,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            min_length=0,
            # No token has the id after the last: without one, the model's own EOS would be filled in.
            eos_token_id=eos or [self.backbone.config.vocab_size],
            pad_token_id=pad,
            use_cache=True,
            **self._settings(prompts, budget),
        )
        arguments = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
            "generation_config": settings,
            "stopping_criteria": StoppingCriteriaList([watch]),
            **self._arguments(),
        }
        output = self._generate(len(prompts), arguments)
        return output[:, width:].tolist(), watch, time.perf_counter() - watch.begin


class DraftingMethod(GenerateMethod):
    """transformers' assisted search: one chain of candidates per pass, which the adapted model verifies.

    The first pass already verifies a draft, beside the prompt; so prompt_seconds holds the making of that draft, and
    prompt_tokens its accepted tokens, as far as they are in the text.
    """

    single = True

    def _batch(self, prompts: list[list[int]], budget: int) -> list[Generation]:
        """The one prompt; `accepted` holds its passes after the first by how many tokens of their draft they kept."""
        calls: list[None] = []  # forwards of the adapted model; a draft model's are its own
        handle = self.backbone.decoder.register_forward_hook(lambda *_: calls.append(None))
        try:
            (row,), watch, seconds = self._search(prompts, budget)
        finally:
            handle.remove()
        ids, reason = truncate(row, budget, self.adapted.eos_token_ids)
        depths = [after - before - 1 for before, after in pairwise(watch.lengths)]
        accepted = [depths.count(depth) for depth in range(max(depths, default=-1) + 1)]
        first = min(watch.lengths[0] - len(prompts[0]), len(ids))
        return [Generation(ids, len(calls), accepted, reason, seconds, watch.first, first)]
