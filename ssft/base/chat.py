"""What a data row's prompt is as text: as it stands, or through the chat template of the base."""

from typing import Any

from ssft.errors import DataError


def prompt_messages(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages before the completion: without the assistant's, if that is the last one."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def render_prompt(row: dict[str, Any], tokenizer: Any) -> str:
    """The prompt as text: `messages` through the tokenizer's chat template (a final assistant message is the completion
    and left out), else `prompt` as it is. Raises `DataError` if the tokenizer has no chat template."""
    if "messages" not in row:
        return str(row["prompt"])
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("the row has `messages`, but the base's tokenizer has no chat template; give `prompt` instead")
    messages = prompt_messages(row["messages"])
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def completion_of(row: dict[str, Any]) -> str:
    """The completion of a row, or the final message if it is the assistant's; empty where there is none."""
    last = row["messages"][-1] if "messages" in row else {"role": "assistant", "content": row.get("completion") or ""}
    return last["content"] if last["role"] == "assistant" else ""


_PLACE = "THE-MESSAGE-STANDS-HERE"


def open_user_turn(messages: list[dict[str, str]], tokenizer: Any) -> tuple[str, str]:
    """The conversation as text up to where the user's next message would begin, and what the chat template writes
    behind such a message. Raises `DataError` if the tokenizer has no chat template, or one that does not show it."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the tokenizer of the base has no chat template, so that no user's turn can be opened; give "
            "prompts with --data FILE"
        )
    shown = [*messages, {"role": "user", "content": _PLACE}]
    text = str(tokenizer.apply_chat_template(shown, add_generation_prompt=False, tokenize=False))
    before, found, after = text.rpartition(_PLACE)
    if not found:
        raise DataError("the base's chat template does not show the user's message as it is; give prompts with --data")
    return before, after
