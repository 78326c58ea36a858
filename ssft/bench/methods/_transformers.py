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

            def run(batch: list[int], group: list[int] = group, budget: int = budget) -> list[Generation]:
                return self._batch([prompts[group[place]] for place in batch], budget)

            lengths = [len(prompts[row]) for row in group]
            results.update(zip(group, run_in_batches(lengths, self.batch_size, run), strict=True))
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
        results, _ = self._search(prompts, budget)
        for result in results:
            result.calls = len(result.token_ids)
        return results

    @torch.inference_mode()
    def _search(self, prompts: list[list[int]], budget: int) -> tuple[list[Generation], Watch]:
        """What each prompt became, calls aside, and what was noted on the way."""
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
        rows = self._generate(len(prompts), arguments)[:, width:].tolist()
        seconds = time.perf_counter() - watch.begin
        results = []
        for row in rows:
            token_ids, reason = truncate(row, budget, self.adapted.eos_token_ids)
            results.append(Generation(token_ids, finish_reason=reason, seconds=seconds, prompt_seconds=watch.first))
        return results, watch


class DraftingMethod(GenerateMethod):
    """transformers' assisted search: one chain of candidates per pass, which the adapted model verifies.

    The first pass already verifies a draft, beside the prompt; so prompt_seconds holds the making of that draft, and
    prompt_tokens its accepted tokens, as far as they are in the text. `accepted` holds the passes after the first by
    how many tokens of their draft they kept.
    """

    KIND = "speculative"
    SINGLE = True

    def _batch(self, prompts: list[list[int]], budget: int) -> list[Generation]:
        calls: list[None] = []  # forwards of the adapted model; a draft model's are its own
        handle = self.backbone.decoder.register_forward_hook(lambda *_: calls.append(None))
        try:
            (result,), watch = self._search(prompts, budget)
        finally:
            handle.remove()
        depths = [after - before - 1 for before, after in pairwise(watch.lengths)]
        result.calls = len(calls)
        result.accepted = [depths.count(depth) for depth in range(max(depths, default=-1) + 1)]
        result.prompt_tokens = min(watch.lengths[0] - len(prompts[0]), len(result.token_ids))
        return [result]


def truncate(ids: list[int], budget: int, eos: set[int]) -> tuple[list[int], str]:
    """Ids up to and with the first EOS, at most `budget`; and the finish reason, "eos" or "length"."""
    ids = ids[:budget]
    stop = next((place for place, token in enumerate(ids) if token in eos), None)
    return (ids, "length") if stop is None else (ids[: stop + 1], "eos")
