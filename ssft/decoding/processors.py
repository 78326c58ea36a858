"""`Sampling` as transformers' own logits processors, in the order in which `generate` applies them."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as transformers_has

from ssft.decoding.sampling import Sampling


def history_processors(
    sampling: Sampling, prompt_length: int, ends: Iterable[int], device: torch.device
) -> list[transformers_has.LogitsProcessor]:
    """Those that look at the tokens so far; `ends` are the token ids that end a text."""
    ends = sorted(ends)
    found: list[transformers_has.LogitsProcessor] = []
    if sampling.sequence_bias is not None:
        bias: Any = [[list(ids), float(weight)] for ids, weight in sampling.sequence_bias.items()]
        found.append(transformers_has.SequenceBiasLogitsProcessor(bias))
    if sampling.repetition_penalty is not None:
        found.append(transformers_has.RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.presence_penalty or sampling.frequency_penalty:
        found.append(
            OccurrencePenalty(sampling.presence_penalty or 0.0, sampling.frequency_penalty or 0.0, prompt_length)
        )
    if sampling.no_repeat_ngram_size is not None:
        found.append(transformers_has.NoRepeatNGramLogitsProcessor(int(sampling.no_repeat_ngram_size)))
    if sampling.bad_words_ids is not None:
        found.append(transformers_has.NoBadWordsLogitsProcessor(sampling.bad_words_ids, ends or None))
    if sampling.min_new_tokens and ends:
        found.append(
            transformers_has.MinNewTokensLengthLogitsProcessor(
                prompt_length, int(sampling.min_new_tokens), ends, device=str(device)
            )
        )
    return found


def warpers(sampling: Sampling) -> tuple[transformers_has.LogitsProcessor, ...]:
    """Those that look at the scores alone; equal settings give the same objects, so that rows can share a call."""
    return _warpers(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.typical_p)


@cache
def _warpers(
    temperature: float | None, top_k: int | None, top_p: float | None, min_p: float | None, typical_p: float | None
) -> tuple[transformers_has.LogitsProcessor, ...]:
    found: list[transformers_has.LogitsProcessor] = []
    if temperature is not None and temperature != 1:
        found.append(transformers_has.TemperatureLogitsWarper(float(temperature)))
    if top_k is not None:
        found.append(transformers_has.TopKLogitsWarper(int(top_k)))
    if top_p is not None and top_p < 1:
        found.append(transformers_has.TopPLogitsWarper(float(top_p)))
    if min_p is not None:
        found.append(transformers_has.MinPLogitsWarper(float(min_p)))
    if typical_p is not None and typical_p < 1:
        found.append(transformers_has.TypicalLogitsWarper(float(typical_p)))
    return tuple(found)


WARPERS = (
    transformers_has.TemperatureLogitsWarper,
    transformers_has.TopKLogitsWarper,
    transformers_has.TopPLogitsWarper,
    transformers_has.MinPLogitsWarper,
    transformers_has.TypicalLogitsWarper,
    transformers_has.EpsilonLogitsWarper,
    transformers_has.EtaLogitsWarper,
    transformers_has.LogitNormalization,
)
"""transformers' processors that look at the scores of each row alone, whatever the tokens before were."""


class OccurrencePenalty(transformers_has.LogitsProcessor):
    """The penalties of OpenAI's interface, which transformers lacks: logit - presence·[count > 0] - frequency·count.

    Counted is the answer, which begins after `prompt_length` tokens.
    """

    def __init__(self, presence: float, frequency: float, prompt_length: int) -> None:
        self.presence, self.frequency, self.prompt_length = presence, frequency, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids [B, t] and scores [B, V] -> scores [B, V]."""
        answer = input_ids[:, self.prompt_length :]
        counts = torch.zeros_like(scores).scatter_add_(1, answer, torch.ones_like(answer, dtype=scores.dtype))
        return scores - self.frequency * counts - self.presence * (counts > 0)
