"""What callers hand to `MultiAdapterModel.generate`: the forms of a prompt, and settings for one or for every row."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

from pydantic import InstanceOf
from torch import Tensor

from ssft.base.chat import render_prompt
from ssft.decoding.draft.drafter import Drafter
from ssft.errors import ConfigError, GenerationError, SSFTError
from ssft.schema import FROM_ZERO, POSITIVE, check, shown

T = TypeVar("T")


def split_prompts(prompts: Any) -> tuple[list[Any], bool]:
    """(single prompts, whether only one was given, not in a list).

    A prompt is a text, token ids (list or 1-D tensor), a chat (a list of messages with `role` and `content`), or a
    data row with `prompt` or `messages`. A list of those, or a 2-D tensor without padding, is a batch.
    """
    if isinstance(prompts, Tensor) and prompts.dim() in (1, 2):
        return ([prompts.tolist()], True) if prompts.dim() == 1 else (prompts.tolist(), False)
    if isinstance(prompts, str | Mapping):
        return [prompts], True
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes | bytearray):
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
        check_text("a prompt", prompt)
        return list(tokenizer(prompt)["input_ids"])
    if isinstance(prompt, Mapping):
        text = _rendered(dict(prompt), tokenizer)
        check_text("a prompt", text)
        return list(tokenizer(text, add_special_tokens="messages" not in prompt)["input_ids"])
    if isinstance(prompt, Sequence) and prompt and all(isinstance(message, Mapping) for message in prompt):
        return encode_prompt({"messages": list(prompt)}, tokenizer)
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray) and _all_ints(prompt):
        return list(prompt)
    raise GenerationError(
        f"a prompt is a {type(prompt).__name__} ({shown(prompt)}); give a text, token ids or a list of messages"
    )


def _rendered(row: dict[Any, Any], tokenizer: Any) -> str:
    """The text of a prompt that is a data row."""
    if "prompt" not in row and "messages" not in row:
        raise GenerationError(f"a prompt has the keys {', '.join(map(str, row))}; it needs `prompt` or `messages`")
    if "messages" not in row and not isinstance(row["prompt"], str):
        raise GenerationError(f"a prompt has prompt={shown(row['prompt'])}, expected a text")
    try:
        return render_prompt(row, tokenizer)
    except SSFTError:
        raise
    except Exception as error:  # a template may do with a wrong message whatever Python can
        raise GenerationError(
            f"the base's chat template refuses the messages ({error}); each needs `role` and `content`, and there must "
            "be at least one"
        ) from error


def check_text(name: str, text: str) -> None:
    """Raise `GenerationError` unless `text` can be written down in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise GenerationError(
            f"{name} holds {half!r} at character {error.start}, half a surrogate pair, which is no character; read the "
            "text as what it is, or put in its place what it stands for"
        ) from error


@runtime_checkable
class _Streamer(Protocol):
    """transformers' `BaseStreamer`, or what looks like one."""

    put: Any
    end: Any


@runtime_checkable
class _Cancel(Protocol):
    """`threading.Event`, or what looks like one."""

    is_set: Any


_OF_A_CALL: dict[str, Any] = {
    **dict.fromkeys(
        ("ignore_eos", "speculate", "progress", "return_dict", "logprobs"), Annotated[bool, "True or False"]
    ),
    "batch_size": Annotated[POSITIVE | None, "a whole number from 1, or None for all prompts at once"],
    "top_logprobs": Annotated[FROM_ZERO, "a whole number from 0"],
    "num_return_sequences": Annotated[POSITIVE, "a whole number from 1"],
    "streamer": Annotated[InstanceOf[_Streamer] | None, "an object with `put` and `end`, or None"],
    "cancel": Annotated[InstanceOf[_Cancel] | None, "a threading.Event or None"],
    "drafter": Annotated[InstanceOf[Drafter] | None, "a Drafter or None"],
}
"""What the settings must be that are one for all rows of a call."""


def check_call(**settings: Any) -> None:
    """Raise `GenerationError` for a setting of a whole call that is of another type or out of range."""
    for name, value in settings.items():
        check(_OF_A_CALL[name], value, name, GenerationError)


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
    one = isinstance(value, kind) or not isinstance(value, Iterable)
    values = () if value is None else (value,) if one else tuple(value)
    if not all(isinstance(item, kind) and not isinstance(item, bool) for item in values):
        raise ConfigError(f"{name}={shown(value)}: expected {expected}")
    return values


def _all_ints(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
