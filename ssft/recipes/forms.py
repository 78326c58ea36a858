"""The forms in which people keep rows, and how each becomes a row with prompt and completion, or with messages."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from ssft.base.chat import prompt_messages
from ssft.errors import DataError
from ssft.recipes.config import ROW_KEYS, DataConfig
from ssft.recipes.template import as_text, fill, template_columns
from ssft.schema import shown

# The prompt that the authors of Alpaca trained with (Taori et al. 2023).
ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
)
ALPACA_INPUT = ", paired with an input that provides further context"
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# Columns that mostly hold what a row is asked, and what is answered: for the line that a message proposes.
_ASKED = ("prompt", "question", "instruction", "input", "text", "context", "document", "article", "source", "query")
_ANSWERED = ("completion", "response", "answer", "output", "label", "target", "summary", "reference", "result")


TEXT = "text alone"


class Form(NamedTuple):
    """A known form: its name, the columns by which a row is known to have it, and how such a row is put into ours."""

    name: str
    prompt: tuple[str, ...]
    completion: tuple[str, ...]
    convert: Callable[[dict[str, Any], str], dict[str, Any]]


def _as_it_stands(record: dict[str, Any], where: str) -> dict[str, Any]:
    return {key: record[key] for key in ROW_KEYS if key in record}


def _response(record: dict[str, Any], where: str) -> dict[str, Any]:
    row = {"prompt": record["prompt"]}
    return {**row, "completion": record["response"]} if "response" in record else row


def _alpaca(record: dict[str, Any], where: str) -> dict[str, Any]:
    given = record.get("input") or ""
    prompt = ALPACA.format(ALPACA_INPUT if given else "") + f"### Instruction:\n{as_text(record['instruction'])}\n\n"
    prompt += f"### Input:\n{as_text(given)}\n\n" if given else ""
    row = {"prompt": prompt + "### Response:\n"}
    return {**row, "completion": record["output"]} if "output" in record else row


def _sharegpt(record: dict[str, Any], where: str) -> dict[str, Any]:
    turns = record["conversations"]
    if not isinstance(turns, list):
        raise DataError(f"{where}: `conversations` must be a list of {{from, value}}, got {shown(turns)}")
    messages = []
    for place, turn in enumerate(turns, start=1):
        role = SHAREGPT_ROLES.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if role is None or "value" not in turn:
            known = ", ".join(SHAREGPT_ROLES)
            raise DataError(f"{where}: turn {place} of `conversations` needs `value`, and `from` as one of {known}")
        messages.append({"role": role, "content": turn["value"]})
    return {"messages": messages}


def _whole_text(record: dict[str, Any], where: str) -> dict[str, Any]:
    return {"prompt": "", "completion": record["text"]}


OWN = (
    Form("messages", ("messages",), (), _as_it_stands),
    Form("prompt and completion", ("prompt",), ("completion",), _as_it_stands),
)
"""Rows that are in form already, so that no template is needed."""
FORMS = (
    *OWN,
    Form("prompt and response", ("prompt",), ("response",), _response),
    Form("instruction, input and output (Alpaca)", ("instruction",), ("output",), _alpaca),
    Form("conversations (ShareGPT)", ("conversations",), (), _sharegpt),
    Form(TEXT, ("text",), (), _whole_text),
)


def prompt_of(record: dict[str, Any], data: DataConfig) -> dict[str, Any]:
    """One row, as `data` puts it into form, without its completion: it has `prompt` or `messages`, and
    `ssft.base.chat.render_prompt` makes a text of it. Raises `DataError`."""
    return to_row(record, "the row", data, need_completion=False)[0]


def to_row(record: Any, where: str, data: DataConfig, need_completion: bool = True) -> tuple[dict[str, Any], str]:
    """A checked row with prompt and completion or messages (and references and category where given), and the name of
    the form that it came in.

    Where a record has all columns that `data` names, these count; else it must be in form already, or, where `data`
    names none, in one of `FORMS`. With `need_completion` a row needs a completion (or messages that end with the
    assistant's); without, a prompt is enough. `where` opens the message of the `DataError`.
    """
    if not isinstance(record, dict):
        raise DataError(f'{where}: expected a JSON object, got {shown(record)}; write {{"prompt": …, "completion": …}}')
    have = {key: value for key, value in record.items() if value is not None}
    row, form = _mapped(have, data, need_completion), ", ".join(_settings(data))
    if row is None:
        known = OWN if form else FORMS
        whole = [form for form in known if _fits(form, have, True)]
        fitting = whole or [form for form in known if not need_completion and _fits(form, have, False)]
        if not fitting:
            raise DataError(f"{where}: {_unfit(have, data, need_completion)}")
        row, form = fitting[0].convert(have, where), fitting[0].name
        if "messages" in row and ("prompt" in row or "completion" in row):
            what = "has both `messages` and `prompt`/`completion`; keep one of the two forms, or choose by data.columns"
            raise DataError(f"{where}: {what}, such as data.columns='{{messages: messages}}'")
    # A text alone has an empty prompt, which no other row may have.
    _check(row if form != TEXT else {"completion": row["completion"]}, where, need_completion)
    return row, form


def _settings(data: DataConfig) -> list[str]:
    """The settings that name columns."""
    return ["data.columns"] * bool(data.columns) + [f"data.{key}_template" for key in data.templates()]


def named_columns(data: DataConfig, need_completion: bool = True) -> dict[str, str]:
    """The columns that `data` asks for, each with the setting; those of the answer only where it is needed."""
    optional = () if need_completion else ("completion", "references", "category")
    named = {column: "data.columns" for key, column in data.columns.items() if key not in optional}
    for key, template in data.templates().items():
        if key not in optional:
            named |= dict.fromkeys(template_columns(template, f"data.{key}_template"), f"data.{key}_template")
    return named


def _mapped(have: dict[str, Any], data: DataConfig, need_completion: bool) -> dict[str, Any] | None:
    """The row that columns and templates give, with the prompt, completion or references that they say nothing about
    from the columns of those names; None where `data` names no columns or the record lacks some of them."""
    settings = _settings(data)
    if not settings or any(column not in have for column in named_columns(data, need_completion)):
        return None
    row = {key: have[column] for key, column in data.columns.items() if column in have}
    row = {key: as_text(value) if key in ("prompt", "completion") else value for key, value in row.items()}
    for key, template in data.templates().items():
        if all(column in have for column in template_columns(template, f"data.{key}_template")):
            row[key] = fill(template, have, f"data.{key}_template")
    if "messages" not in row:
        row = {**{key: have[key] for key in ("prompt", "completion", "references") if key in have}, **row}
    whole = "messages" in row or all(key in row for key in ("prompt", "completion")[: 1 + need_completion])
    return row if whole else None


def _fits(form: Form, have: dict[str, Any], with_completion: bool) -> bool:
    if form.convert is _whole_text:
        return with_completion and set(have) == {"text"}
    return all(column in have for column in form.prompt + form.completion * with_completion)


def _unfit(have: dict[str, Any], data: DataConfig, need_completion: bool) -> str:
    """Why a record is in no form, with its columns and the line that would map them."""
    named = named_columns(data, need_completion)
    missing = [f"{setting} names {column!r}" for column, setting in named.items() if column not in have]
    forms = "; ".join(form.name for form in FORMS if need_completion or form.convert is not _whole_text)
    why = f"which is none of the forms that are known ({forms})"
    if missing:
        why = f"and {missing[0]}"
    elif settings := _settings(data):
        why = f"of which {', '.join(settings)} makes no prompt with a completion"
    what = f"the columns are {', '.join(map(str, have)) or 'none'}, {why}"
    if not need_completion:
        return f"{what}; a prompt needs `prompt` or `messages`, or the columns that the adapter was trained with"
    return f"{what}; {_proposal(have, data)}"


def _proposal(have: dict[str, Any], data: DataConfig) -> str:
    """The override that would map the columns, as far as their names tell."""
    plain = [name for name in have if name not in ("id", "references", "category")]
    if len(plain) < 2:
        return f"there is no `{'completion' if 'prompt' in have else 'prompt'}`; add it, or give `messages`"
    completion = next((name for name in _ANSWERED if name in plain), plain[-1])
    others = [name for name in plain if name != completion]
    prompt = next((name for name in _ASKED if name in others), others[0])
    mapping = f"{{prompt: {_quoted(prompt)}, completion: {_quoted(completion)}}}"
    clear = "".join(f" data.{key}_template=" for key in data.templates())
    line = (
        f"map them: data.columns='{mapping}'{clear} on the command line, `columns: {mapping}` below `data:` in a recipe"
    )
    return f"{line}; data.prompt_template='{{{prompt}}}…' puts words around them"


def _quoted(name: str) -> str:
    """A column's name for YAML."""
    plain = name.isidentifier() and name.lower() not in ("true", "false", "null")
    return name if plain else json.dumps(name, ensure_ascii=False)


def _check(row: dict[str, Any], where: str, need_completion: bool) -> None:
    """Raise `DataError` if a value of a row in form is none that can be used."""
    if "messages" in row:
        _check_messages(row["messages"], where, need_completion)
    for key in ("prompt", "completion", "category"):
        if key in row and not (isinstance(row[key], str) and row[key].strip()):
            raise DataError(f"{where}: `{key}` must be a text, got {shown(row[key])}; fill it, or remove the row")
    references = row.get("references", [])
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DataError(f"{where}: `references` must be a list of strings, got {shown(references)}")


def _check_messages(messages: Any, where: str, need_completion: bool) -> None:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: `messages` must be a non-empty list of {{role, content}}, got {shown(messages)}")
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}: message {place} needs the strings `role` and `content`")
        if message["role"] == "assistant" and not message["content"].strip():
            raise DataError(f"{where}: message {place}, the assistant's, is empty; fill it, or remove the row")
    if need_completion and (role := messages[-1]["role"]) != "assistant":
        raise DataError(f"{where}: `messages` ends with role {role!r}; end it with the assistant's, the completion")
    if not prompt_messages(messages):
        raise DataError(f"{where}: `messages` holds the assistant's only; add the user's before it")
