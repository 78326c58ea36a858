"""What callers hand to `MultiAdapterModel.generate`: the forms of a prompt, and settings for one or for every row."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from jinja2 import TemplateError
from torch import Tensor

from ssft.base.chat import render_prompt
from ssft.errors import ConfigError, GenerationError

T = TypeVar("T")


def split_prompts(prompts: Any) -> tuple[list[Any], bool]:
    """(single prompts, whether only one was given, not in a list).

    A prompt is a text, token ids (list or 1-D tensor), a chat (a list of messages with `role` and `content`), or a
    data row with `prompt` or `messages`. A list of those, or a 2-D tensor without padding, is a batch.
    """
    if isinstance(prompts, Tensor):
        return ([prompts.tolist()], True) if prompts.dim() == 1 else (prompts.tolist(), False)
    if isinstance(prompts, str | Mapping):
        return [prompts], True
    if not isinstance(prompts, Sequence):
        raise GenerationError(
            f"prompts is a {type(prompts).__name__}; give a text, token ids, a list of messages or a list of those"
        )
    values = list(prompts)
    single = bool(values) and (_all_ints(values) or all(isinstance(v, Mapping) and "role" in v for v in values))
    return ([values], True) if single else (values, False)


def encode_prompt(prompt: Any, tokenizer: Any) -> list[int]:
    """Token ids of one prompt; a text gets the tokenizer's own special tokens, a chat those of its template."""
    if isinstance(prompt, Tensor):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if isinstance(prompt, Mapping):
        if "prompt" not in prompt and "messages" not in prompt:
            raise GenerationError(
                f"a prompt has the keys {', '.join(map(str, prompt))}; it needs `prompt` or `messages`"
            )
        row = dict(prompt)
        try:
            text = render_prompt(row, tokenizer)
        except TemplateError as error:
            raise GenerationError(
                f"the base's chat template refuses the messages ({error}); each needs `role` and `content`"
            ) from error
        return list(tokenizer(text, add_special_tokens="messages" not in row)["input_ids"])
    if isinstance(prompt, Sequence) and prompt and all(isinstance(message, Mapping) for message in prompt):
        return encode_prompt({"messages": list(prompt)}, tokenizer)
    if isinstance(prompt, Sequence) and _all_ints(prompt):
        return list(prompt)
    raise GenerationError(
        f"a prompt is a {type(prompt).__name__} ({str(prompt)[:40]}); give a text, token ids or a list of messages"
    )


def per_row(name: str, value: Any, count: int, kinds: tuple[type, ...]) -> list[Any]:
    """`value` for each of `count` rows: a list of rows as it is, anything else repeated.

    `kinds` tell an element of a per-row list from a part of one shared value: `stop=["a", "b"]` holds for all rows,
    `stop=[["a"], None]` has one entry per row.
    """
    if not isinstance(value, list | tuple) or not value or not all(isinstance(element, kinds) for element in value):
        return [value] * count
    if len(value) != count:
        raise GenerationError(
            f"{name} has {len(value)} entries for {count} prompts; give one value for all or one per prompt"
        )
    return list(value)


def as_tuple(name: str, value: Any, kind: type[T], expected: str) -> tuple[T, ...]:
    """None, one `kind` or several of them as a tuple; `expected` says to people what they may give."""
    values = () if value is None else (value,) if isinstance(value, kind) else tuple(value)
    if not all(isinstance(item, kind) and not isinstance(item, bool) for item in values):
        raise ConfigError(f"{name}={value!r}: expected {expected}")
    return values


def _all_ints(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
