"""What the card says of the prompt: its form, an example, and how a command is given one."""

import json

import pytest

from ssft.bundle.format import PROVENANCE, RUN
from ssft.bundle.read import read_bundle
from ssft.card.prompt_form import PromptForm, prompt_form
from ssft.card.write import card_text
from ssft.errors import ConfigError

TEMPLATE = (
    "data:\n  prompt_template: |\n    Schema: {table}\n\n    {table} and ```{a question}```\nlora:\n  anything: 1\n"
)


@pytest.fixture
def told(written):
    """Reads the adapter again after `run.yaml` and `provenance.json` were written."""

    def told(run, **provenance):
        (written[1] / RUN).write_text(run)
        (written[1] / PROVENANCE).write_text(json.dumps(provenance))
        return read_bundle(written[1])

    return told


def test_a_template_is_shown_with_the_row_that_fills_it(told):
    bundle = told(TEMPLATE.replace("{a question}", "{question}"))
    form = prompt_form(bundle)
    assert form == PromptForm(
        "Schema: {table}\n\n{table} and ```{question}```\n", '{"table": "…", "question": "…"}', False, ()
    )
    text = card_text(bundle)
    assert """ --row '{"table": "…", "question": "…"}'\n""" in text
    assert "```\n\nSchema" not in text
    assert "the whole text, which ends with a line break:\n\n````text\nSchema: {table}\n\n{table} and ```" in text


def test_without_a_template_the_whole_prompt_is_given(told):
    bundle = told("base: base\n")
    assert prompt_form(bundle) == PromptForm("", "", False, ())
    assert " --prompt '...'\n" in card_text(bundle)
    assert "### The prompt" not in card_text(bundle)


def test_an_example_is_shown_as_it_is(told):
    bundle = told("", example={"prompt": "# no heading\n```\nsay 1:", "completion": "1 & <b>"})
    assert "````text\n# no heading\n```\nsay 1:\n````\n\n```text\n1 & <b>\n```" in card_text(bundle)


def test_a_chat_is_shown_by_its_messages(told):
    messages = [{"role": role, "content": text} for role, text in (("system", "Be brief."), ("user", "Hi"))]
    bundle = told("", form="messages", example={"messages": [*messages, {"role": "assistant", "content": "Hello."}]})
    text = card_text(bundle)
    assert " --chat --prompt '...'\n" in text
    assert 'adapted.generate([{"role": "user", "content": "..."}], ' in text
    shown = '{"role": "system", "content": "Be brief."}\n{"role": "user", "content": "Hi"}'
    assert f"```text\n{shown}\n```\n\n```text\nHello.\n```" in text


@pytest.mark.parametrize("example", [1, [], {"prompt": "x"}, {"prompt": "x", "completion": 2}, {"messages": [1]}, {}])
def test_an_example_of_another_shape_is_none(told, example):
    assert prompt_form(told("", example=example)).example == ()


def test_a_damaged_run_yaml_is_an_error(told):
    with pytest.raises(ConfigError, match=r"run.yaml: data.prompt_template='\{x.y\}.*give prompts as whole texts"):
        card_text(told("data:\n  prompt_template: '{x.y}'\n"))
    with pytest.raises(ConfigError, match=r"run\.yaml: while parsing"):
        card_text(told("data: [\n"))
