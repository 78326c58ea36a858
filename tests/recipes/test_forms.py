"""Columns and known forms become prompt and completion; what fits nowhere is told with the line that would map it."""

import json
import re

import pytest
import yaml

from ssft.errors import ConfigError, DataError
from ssft.recipes.config import DataConfig
from ssft.recipes.data import load_row_pair, load_rows
from ssft.recipes.forms import prompt_of, to_row
from ssft.recipes.recipe import load_recipe

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def row_of(record, need_completion=True, **data):
    return to_row(record, "here", DataConfig(**data), need_completion)[0]


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"prompt": "a", "completion": "b", "id": 1}, {"prompt": "a", "completion": "b"}),
        ({"prompt": "a", "response": "b"}, {"prompt": "a", "completion": "b"}),
        ({"text": "a whole text"}, {"prompt": "", "completion": "a whole text"}),
        ({"messages": CHAT}, {"messages": CHAT}),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, {"messages": CHAT}),
        (
            {"conversations": [{"from": role, "value": f"{role}'s"} for role in ("system", "user", "assistant")]},
            {"messages": [{"role": role, "content": f"{role}'s"} for role in ("system", "user", "assistant")]},
        ),
    ],
)  # fmt: skip
def test_known_forms(record, row):
    assert row_of(record) == row


@pytest.mark.parametrize("given", [None, "", "x + x"])
def test_alpaca(given):
    row = row_of({"instruction": "Add.", "input": given, "output": "2x"})
    assert row["completion"] == "2x"
    assert row["prompt"].startswith("Below is an instruction that describes a task")
    assert ("paired with an input" in row["prompt"]) == ("### Input:\nx + x\n\n" in row["prompt"]) == bool(given)
    assert row["prompt"].endswith("### Response:\n")
    assert "### Instruction:\nAdd.\n\n" in row["prompt"]


LABELLED, MAPPED = {"text": "a", "label": "b"}, {"prompt": "text", "completion": "label"}
ORDER = {"text": "3 cups", "label": {"n": 3}, "note": None, "the city": "Rome"}


@pytest.mark.parametrize(
    ("data", "row"),
    [
        ({"columns": MAPPED}, {"prompt": "3 cups", "completion": '{"n": 3}'}),
        (
            {"prompt_template": "{{{text}}} to {the city}:", "completion_template": "{label}"},
            {"prompt": "{3 cups} to Rome:", "completion": '{"n": 3}'},
        ),
        (
            {"prompt_template": "{text}?", "columns": {"completion": "the city"}},
            {"prompt": "3 cups?", "completion": "Rome"},
        ),
    ],
)
def test_columns_and_templates(data, row):
    assert row_of(ORDER, **data) == row
    # a row that is in form already needs neither
    assert row_of({"prompt": "a", "completion": "b"}, **data) == {"prompt": "a", "completion": "b"}
    assert prompt_of({**ORDER, "label": None}, DataConfig(**data))["prompt"] == row["prompt"]


def test_templates_may_name_the_columns_of_a_known_form():
    made = row_of({"prompt": "a", "completion": "b"}, prompt_template="Q: {prompt}\nA: ")
    assert made == {"prompt": "Q: a\nA: ", "completion": "b"}


def test_columns_choose_between_two_forms():
    both = {"prompt": "a", "messages": CHAT}
    with pytest.raises(DataError, match=r"has both `messages` and `prompt`.*data\.columns='\{messages: messages\}'"):
        row_of(both)
    assert row_of(both, columns={"messages": "messages"}) == {"messages": CHAT}


def test_references_come_along():
    record = {"question": "q", "answer": "a", "references": ["a", "b"]}
    columns = {"prompt": "question", "completion": "answer"}
    assert row_of(record, columns=columns)["references"] == ["a", "b"]


def test_a_prompt_needs_no_completion_but_takes_one():
    assert row_of({"prompt": "a"}, need_completion=False) == {"prompt": "a"}
    assert row_of({"prompt": "a", "response": "b"}, need_completion=False) == {"prompt": "a", "completion": "b"}
    assert row_of({"text": "t"}, need_completion=False, prompt_template="{text}:") == {"prompt": "t:"}


@pytest.mark.parametrize(
    ("record", "data", "message"),
    [
        (LABELLED, {}, "here: the columns are text, label, which is none of the forms"),
        (LABELLED, {"prompt_template": "{txet}"}, "text, label, and data.prompt_template names 'txet'"),
        (LABELLED, {"columns": {"prompt": "q"}}, "text, label, and data.columns names 'q'"),
        (LABELLED, {"prompt_template": "{text}"}, "data.prompt_template makes no prompt with a compl"),
        ({**LABELLED, "label": ""}, {"columns": MAPPED}, "`completion` must be a text, got ''"),
        ({"conversations": "x"}, {}, "`conversations` must be a list"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, {}, "turn 1 .* `from` as one of human, user, gpt"),
        ({"conversations": [{"from": "human", "value": "x"}]}, {}, "`messages` ends with role 'user'"),
    ],
)  # fmt: skip
def test_what_fits_nowhere_is_told(record, data, message):
    with pytest.raises(DataError, match=message):
        row_of(record, **data)


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (("text", "label"), MAPPED),
        (("id", "answer", "question"), {"prompt": "question", "completion": "answer"}),
        (("the mail", "who"), {"prompt": "the mail", "completion": "who"}),
        (("7", "true"), {"prompt": "7", "completion": "true"}),
    ],
)
def test_the_line_that_is_proposed_maps_the_columns(tmp_path, columns, mapping):
    record = dict.fromkeys(columns, "words")
    for name, prompt_template in (("quickstart", ""), ("sql", load_recipe("sql").data.prompt_template)):
        with pytest.raises(DataError) as caught:
            row_of(record, prompt_template=prompt_template)
        override, cleared, section = re.search(
            r"map them: (data\.columns=)'(?:\{.*?\})'((?: \S+=)*) on .*, `(columns: .*)` below", str(caught.value)
        ).groups()
        line = re.search(r"data\.columns='(.*?)'", str(caught.value))[1]
        recipe = load_recipe(name, [override + line, *cleared.split(), "data.completion_template="])
        assert recipe.data.columns == yaml.safe_load(section)["columns"] == mapping
        assert to_row(record, "", recipe.data)[0] == {"prompt": "words", "completion": "words"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"columns": {"promt": "a"}}, "data.columns: a row has no 'promt'; did you mean 'prompt'"),
        ({"columns": {"prompt": "a"}, "prompt_template": "{b}"}, "both give the prompt; keep one"),
        ({"columns": {"messages": "a", "completion": "b"}}, "messages beside a prompt or a completion"),
        ({"prompt_template": "{a!r}"}, r"\{a!r\} is no plain column name"),
        ({"prompt_template": "{a:>9}"}, r"\{a:>9\} is no plain column name"),
        ({"prompt_template": "{a[0]}"}, r"\{a\[0\]\} is no plain column name"),
    ],
)
def test_wrong_mappings_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**data).check_data()


def test_a_csv_file_as_it_is(tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"t{n},l{n}\n" for n in range(40)))
    data = DataConfig(
        train=str(tmp_path / "mine.csv"), prompt_template="{text}:", completion_template="{label}", max_train_rows=9
    )
    train, validation = load_row_pair(data, seed=0)
    assert (len(train.rows), len(validation.rows)) == (9, 2)
    assert all(re.fullmatch(r"t(\d+):", row["prompt"])[1] == row["completion"][1:] for row in train.rows)
    assert train.note == (
        f"train: 9 of 38 rows (data.max_train_rows=9; 0 takes all) of {tmp_path / 'mine.csv'} (data.prompt_template, "
        "data.completion_template), 2 of 40 rows held back for validation (data.validation_fraction=0.05)"
    )
    assert validation.note.startswith(f"validation: 2 rows of {tmp_path / 'mine.csv'}")
    assert load_rows(tmp_path / "mine.csv", 1, False, data) == [{"prompt": "t0:", "completion": "l0"}]


def test_rows_of_two_forms_are_counted(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}] * 3 + [{"question": "q", "answer": "a"}] * 2
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = str(tmp_path / "mine.jsonl")
    columns = {"prompt": "question", "completion": "answer"}
    note = load_row_pair(DataConfig(train=file, columns=columns, validation_fraction=0.2), seed=0)[0].note
    assert "(prompt and completion: 3; data.columns: 2)" in note
