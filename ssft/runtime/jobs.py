"""One row of a `MultiAdapterModel` call: its settings, the request that runs it, the answer from the result."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from ssft.decoding.draft.drafter import Drafter
from ssft.decoding.grammar.engine import compile_grammar
from ssft.decoding.processors import history_processors, warpers
from ssft.decoding.request import Generation, Request
from ssft.decoding.sampling import Sampling
from ssft.decoding.stops import StopStrings
from ssft.errors import GenerationError
from ssft.lora.bank import Adapter
from ssft.runtime.inputs import as_tuple, check_call, check_text, encode_prompt, per_row
from ssft.runtime.sampling import sampling_per_row, seed_of
from ssft.schema import shown

Decode = Callable[[list[int]], str]


class Active:
    """Default of `adapter`: whichever is active. (None already means the bare base.)"""

    def __repr__(self) -> str:
        return "the active adapter"


ACTIVE = Active()


@dataclass
class Job(Request):
    """What one row asks for, and how its text is cut; `adapter` is a name, and `request` puts its tensors there."""

    adapter: str | None = None
    stop: StopStrings | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def request(self, adapter: Adapter, drafter: Drafter | None, device: torch.device) -> Request:
        """What the scheduler runs; `adapter` is the row's own, on the device."""
        own = history_processors(self.sampling, len(self.prompt), self.ends, device)
        values = {f.name: getattr(self, f.name) for f in fields(Request)}
        values |= {"drafter": drafter, "tree": adapter.tree, "adapter": adapter.lora}
        return Request(**{**values, "processors": [*own, *self.processors], "warpers": warpers(self.sampling)})

    def most_tokens(self, context: int, vocab_size: int) -> int:
        """See `Request.most_tokens`; the ids in `sampling` must be the model's, too."""
        self.sampling.check_ids(vocab_size)
        most = super().most_tokens(context, vocab_size)
        if (least := self.sampling.min_new_tokens or 0) > most:
            raise GenerationError(
                f"min_new_tokens={least}, but the answer may have {most} tokens; lower min_new_tokens, raise "
                "max_new_tokens or shorten the prompt"
            )
        return most

    def answers(self, count: int) -> list["Job"]:
        """The row `count` times, with seeds one after the other."""
        if count > 1 and self.seed is None:
            raise GenerationError(
                f"num_return_sequences={count}: without sampling all answers of a prompt are the same; give "
                "do_sample=True, or leave num_return_sequences out"
            )
        return [self] + [replace(self, seed=(self.seed or 0) + i) for i in range(1, count)]

    def text_ids(self, result: Generation) -> list[int]:
        """Produced ids that are text: a stop token ends the text and is no part of it."""
        ids = result.token_ids
        return ids[:-1] if ids and ids[-1] in self.ends else ids

    def output(self, result: Generation, decode: Decode) -> dict[str, Any]:
        """The row of `generate(return_dict=True)`."""
        text = decode(self.text_ids(result))
        return {
            "text": text if self.stop is None else self.stop.cut(text),
            "token_ids": result.token_ids,
            "tokens": len(result.token_ids),
            "calls": result.calls,
            "accepted": result.accepted,
            "seconds": result.seconds,
            "finish_reason": result.finish_reason,
            "adapter": self.adapter,
            **({} if self.seed is None else {"seed": self.seed}),
            **({"logprobs": result.logprobs} if self.top_logprobs is not None else {}),
            **({"top_logprobs": result.top_logprobs} if self.top_logprobs else {}),
        }


def make_jobs(
    prompts: list[Any],
    adapter: Any,
    tokenizer: Any,
    decode: Decode,
    eos_token_ids: set[int],
    max_new_tokens: Any,
    stop: Any = None,
    stop_token_ids: Any = None,
    ignore_eos: bool = False,
    logits_processor: Any = (),
    sampling: dict[str, Any] | None = None,
    top_logprobs: int | None = None,
) -> list[Job]:
    """A job per prompt; every setting is one value for all rows or a list of one per row (see `per_row`)."""
    check_call(ignore_eos=ignore_eos)
    count, none = len(prompts), type(None)
    names = per_row("adapter", adapter, count, (str, none))
    limits = per_row("max_new_tokens", max_new_tokens, count, (int,))
    stops = per_row("stop", stop, count, (list, tuple, none))
    ids = per_row("stop_token_ids", stop_token_ids, count, (list, tuple, set, none))
    processors = per_row("logits_processor", logits_processor, count, (list, none))
    samplings = sampling_per_row(sampling or {}, count)
    ends = frozenset() if ignore_eos else frozenset(eos_token_ids)
    jobs = []
    for i, prompt in enumerate(prompts):
        if not isinstance(names[i], str | None):
            raise GenerationError(
                f"adapter={shown(names[i])}: expected a name, None for the bare base, or a list of those"
            )
        strings = as_tuple("stop", stops[i], str, "a string or a list of strings")
        for string in strings:
            check_text("stop", string)
        jobs.append(
            Job(
                prompt=encode_prompt(prompt, tokenizer),
                adapter=names[i],
                max_new_tokens=limits[i],
                eos_token_ids=ends,
                stop_token_ids=frozenset(as_tuple("stop_token_ids", ids[i], int, "token ids")),
                stop=StopStrings(strings, decode) if strings else None,
                processors=() if processors[i] is None else processors[i],
                grammar=None if (form := samplings[i].form) is None else compile_grammar(*form, tokenizer, ends),
                sampling=samplings[i],
                seed=seed_of(samplings[i]),
                top_logprobs=top_logprobs,
            )
        )
    return jobs
