"""The form of the prompts that an adapter learned from, for its card: template, columns, an example."""

import json
from dataclasses import dataclass
from typing import Any

from ssft.bundle.format import Bundle
from ssft.recipes.forms import named_columns
from ssft.recipes.run_data import data_of_run


@dataclass(frozen=True)
class PromptForm:
    """template: text with the columns in braces, empty where rows hold whole prompts. row: a row of these columns as
    JSON, to be filled in, empty without columns. chat: prompts are chats. example: a prompt and its completion, empty
    where `provenance.json` has none."""

    template: str
    row: str
    chat: bool
    example: tuple[str, ...]


def prompt_form(bundle: Bundle) -> PromptForm:
    """What `run.yaml` and `provenance.json` tell; raises `ConfigError` for a damaged run.yaml."""
    data = data_of_run(bundle.path)
    columns = dict.fromkeys(named_columns(data, need_completion=False), "…")
    row = json.dumps(columns, ensure_ascii=False) if columns else ""
    chat = bundle.provenance.get("form") == "messages"
    return PromptForm(data.prompt_template, row, chat, _example(bundle.provenance.get("example")))


def _example(row: Any) -> tuple[str, ...]:
    """Prompt and completion of a row; of a chat, the messages before the last, one a line, and the text of the last."""
    row = row if isinstance(row, dict) else {}
    if isinstance(messages := row.get("messages"), list) and messages and isinstance(messages[-1], dict):
        asked = "\n".join(json.dumps(message, ensure_ascii=False) for message in messages[:-1])
        row = {"prompt": asked, "completion": messages[-1].get("content")}
    found = row.get("prompt"), row.get("completion")
    return found if all(isinstance(text, str) and text for text in found) else ()
