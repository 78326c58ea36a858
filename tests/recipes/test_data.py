"""Reading rows: what is accepted, and the message for everything that is not."""

import gzip
import json

import datasets
import pytest

from ssft.errors import ConfigError, DataError
from ssft.recipes.config import DataConfig
from ssft.recipes.data import load_row_pair, load_rows
from ssft.recipes.recipe import load_recipe

ROW = {"prompt": "a b", "completion": "c d"}
CHAT = {"messages": [{"role": "user", "content": "hi there"}, {"role": "assistant", "content": "hello"}]}


def pair(config, seed):
    return tuple(part.dataset() for part in load_row_pair(config, seed))


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_come_back_with_known_keys(write, name):
    row = {**ROW, "references": ["c d", "e"], "id": 7}
    assert load_rows(write(row, "", CHAT, name=name)) == [{**ROW, "references": ["c d", "e"]}, CHAT]


def test_a_category_is_kept(write):
    row = {**ROW, "category": "maths"}
    assert load_rows(write(row, {**CHAT, "category": "chat"}, {**ROW, "category": None})) == [
        row,
        {**CHAT, "category": "chat"},
        ROW,
    ]


def test_a_category_does_not_reach_training(write):
    path = write({**ROW, "category": "maths"})
    train, _ = pair(DataConfig(train=str(path), validation=str(write(ROW, name="v.jsonl"))), seed=0)
    assert train.column_names == ["prompt", "completion"]


def test_limit_reads_no_further(write):
    assert load_rows(write(ROW, ROW, "{broken"), limit=2) == [ROW, ROW]


def test_prompt_alone_is_enough_to_generate(write):
    question = {"messages": CHAT["messages"][:1]}
    assert load_rows(write({"prompt": "a"}, question), need_completion=False) == [{"prompt": "a"}, question]


def test_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW), encoding="utf-8-sig")
    assert load_rows(tmp_path / "rows.jsonl") == [ROW]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", r"rows\.jsonl, line 2: invalid JSON at column 2 .*one complete JSON object per line"),
        ([1], r"line 2: expected a JSON object, got \[1\]"),
        ({"completion": "c"}, "line 2: the columns are completion, .* no `prompt`; add it, or give `messages`"),
        ({"prompt": "a"}, "line 2: .* no `completion`; add it"),
        ({"prompt": "a", "completion": None}, "line 2: .* no `completion`; add it"),
        ({"prompt": "a", "completion": " \n"}, r"line 2: `completion` must be a text, got ' \\n'; fill it"),
        ({"prompt": "", "completion": "c"}, "line 2: `prompt` must be a text, got ''"),
        ({"prompt": "a", "completion": 3}, "line 2: `completion` must be a text, got 3"),
        ({"prompt": ["a"], "completion": "c"}, r"line 2: `prompt` must be a text, got \['a'\]"),
        ({**ROW, "references": "c"}, "line 2: `references` must be a list of strings, got 'c'"),
        ({**ROW, "category": 3}, "line 2: `category` must be a text, got 3"),
        ({**ROW, "category": " "}, "line 2: `category` must be a text, got ' '"),
        ({**ROW, **CHAT}, "line 2: has both `messages` and `prompt`"),
        ({"messages": []}, "line 2: `messages` must be a non-empty list"),
        ({"messages": [{"role": "user"}]}, "line 2: message 1 needs the strings `role` and `content`"),
        ({"messages": CHAT["messages"][:1]}, "line 2: `messages` ends with role 'user'; end it with the assistant's"),
        ({"messages": CHAT["messages"][1:]}, "line 2: `messages` holds the assistant's only"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "line 2: message 1, the assistant's, is empty"),
    ],
)
def test_a_bad_row_is_named(write, row, message):
    with pytest.raises(DataError, match=message):
        load_rows(write(ROW, row))


def test_missing_file(tmp_path):
    with pytest.raises(
        DataError, match=r"gone\.jsonl: no such file; give a file \(JSONL, JSON, CSV, parquet\), a folder"
    ):
        load_rows(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_empty_file(write, name):
    with pytest.raises(DataError, match=r"rows.*is empty: it needs rows, such as one JSON object per line"):
        load_rows(write(name=name))


def test_truncated_gzip(write):
    path = write(*[{**ROW, "prompt": f"a {n}"} for n in range(1000)], name="rows.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=r"rows\.jsonl\.gz, after line \d+: truncated or damaged gzip.*copy the file again"
    ):
        load_rows(path)


def test_plain_text_named_gz(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_text(json.dumps(ROW))
    with pytest.raises(DataError, match=r"after line 0: truncated or damaged gzip"):
        load_rows(tmp_path / "rows.jsonl.gz")


def test_not_utf8(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DataError, match=r"not UTF-8 text"):
        load_rows(tmp_path / "rows.jsonl")


def test_limit_of_zero(write):
    with pytest.raises(DataError, match=r"limit=0: at least one row"):
        load_rows(write(ROW), limit=0)


# --- pairs ---


def test_quickstart_pair():
    train, validation = pair(DataConfig(max_train_rows=30), seed=0)
    assert (len(train), len(validation)) == (30, 8)
    assert train.column_names == validation.column_names == ["prompt", "completion"]


def test_local_pair_keeps_the_two_columns(write):
    train = write({**ROW, "references": ["x"]}, name="t.jsonl")
    validation = write(ROW, ROW, name="v.jsonl.gz")
    both = pair(DataConfig(train=str(train), validation=str(validation)), seed=0)
    assert [part.to_list() for part in both] == [[ROW], [ROW, ROW]]


def test_messages_stay_messages(write):
    train, _ = pair(DataConfig(train=str(write(CHAT)), validation=str(write(CHAT, name="v.jsonl"))), 0)
    assert train.to_list() == [CHAT]


def test_mixed_forms_are_refused(write):
    config = DataConfig(train=str(write(ROW, CHAT)), validation=str(write(ROW, name="v.jsonl")))
    with pytest.raises(DataError, match=r"row 1 has `prompt`, row 2 does not"):
        pair(config, seed=0)


def test_held_back_share_is_disjoint_and_repeatable(write):
    path = write(*[{"prompt": f"p{n}", "completion": "c"} for n in range(40)])
    config = DataConfig(train=str(path), validation_fraction=0.25)
    train, validation = pair(config, seed=5)
    assert (len(train), len(validation)) == (30, 10)
    assert not set(train["prompt"]) & set(validation["prompt"])
    assert pair(config, seed=5)[1]["prompt"][:] == validation["prompt"][:]
    assert pair(config, seed=6)[1]["prompt"][:] != validation["prompt"][:]


def test_too_few_rows_to_hold_back(write):
    with pytest.raises(DataError, match=r"has 1 rows: data\.validation_fraction=0\.05 holds 0.*data\.validation=FILE"):
        pair(DataConfig(train=str(write(ROW))), seed=0)


def test_max_rows_draws_by_seed(write):
    path = write(*[{"prompt": f"p{n}", "completion": "c"} for n in range(100)])
    config = DataConfig(train=str(path), validation=str(write(ROW, name="v.jsonl")), max_train_rows=10)
    drawn = [pair(config, seed)[0]["prompt"][:] for seed in (0, 0, 1)]
    assert len(drawn[0]) == 10
    assert drawn[0] == drawn[1] != drawn[2]


# --- hub datasets, without a hub ---

SQL = {"context": "CREATE TABLE t (a INTEGER)", "question": "How many?", "answer": "SELECT COUNT(*) FROM t"}
SQL_PROMPT = (
    "Write one SQL query that answers the question.\n\nSchema:\nCREATE TABLE t (a INTEGER)\n\n"
    "Question: How many?\n\nSQL:\n"
)
DIALOGUE = {"dialogue": "#Person1#: Hi.\n#Person2#: Bye.", "summary": "They meet."}
DIALOGUE_PROMPT = "Summarize the dialogue.\n\n#Person1#: Hi.\n#Person2#: Bye.\n\nSummary:\n"
MEANING = {"meaning_representation": "name[Alimentum], food[Thai]", "human_reference": "Alimentum is Thai."}
MEANING_PROMPT = "Describe the restaurant in one or two sentences.\n\nname[Alimentum], food[Thai]\n\nDescription:\n"


@pytest.fixture
def hub(monkeypatch):
    """A hub with the given tables: {(path, config, split, revision): rows}, or an error to raise."""
    calls = []

    def serve(tables):
        def load_dataset(path, name=None, split=None, revision=None):
            calls.append((path, name, split, revision))
            if isinstance(tables, Exception):
                raise tables
            return datasets.Dataset.from_list(tables)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return serve


@pytest.mark.parametrize(
    ("recipe", "columns", "prompt", "completion"),
    [
        ("sql", SQL, SQL_PROMPT, SQL["answer"]),
        ("dialogsum", DIALOGUE, DIALOGUE_PROMPT, DIALOGUE["summary"]),
        ("e2e_nlg", MEANING, MEANING_PROMPT, MEANING["human_reference"]),
    ],
)
def test_recipe_templates_give_the_prompt(hub, recipe, columns, prompt, completion):
    hub([columns] * 100)
    train, validation = pair(load_recipe(recipe).data, seed=0)
    assert train[0] == validation[0] == {"prompt": prompt, "completion": completion}


def test_hub_config_splits_and_revision(hub):
    calls = hub([ROW])
    config = DataConfig(train="a/b:c", train_split="tr", validation_split="dev", revision="r1")
    pair(config, seed=0)
    assert calls == [("a/b", "c", "tr", "r1"), ("a/b", "c", "dev", "r1")]


def test_hub_without_validation_split_holds_back(hub):
    calls = hub([{"prompt": f"p{n}", "completion": "c"} for n in range(20)])
    train, validation = pair(DataConfig(train="a/b", validation_fraction=0.1), seed=0)
    assert (len(train), len(validation), len(calls)) == (18, 2, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), r"data\.train=a/b.*could not be reached.*no route.*data\.train=FILE"),
        (ValueError('Unknown split "x"'), r"check the split.*Unknown split.*data\.train=FILE"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "data.revision=refs/convert/parquet"),
    ],
)
def test_hub_failures(hub, error, message):
    hub(error)
    with pytest.raises(DataError, match=message):
        pair(DataConfig(train="a/b"), seed=0)


def test_template_names_a_missing_column(hub):
    hub([SQL])
    config = DataConfig(train="a/b", prompt_template="{query}", completion_template="{answer}")
    with pytest.raises(
        DataError,
        match=r"row 1: the columns are context, question, answer, and data\.prompt_template names 'query'; map",
    ):
        pair(config, seed=0)


def test_a_hub_column_named_category_may_hold_anything(hub):
    hub([{**ROW, "category": n} for n in range(20)])
    train, _ = pair(DataConfig(train="a/b", validation_fraction=0.1), seed=0)
    assert train[0] == ROW


def test_hub_row_without_the_two_columns(hub):
    hub([SQL])
    with pytest.raises(
        DataError, match=r"a/b, split train, row 1: the columns are context, question, answer, which is none"
    ):
        pair(DataConfig(train="a/b"), seed=0)


def test_a_missing_file_is_no_hub_dataset():
    with pytest.raises(DataError, match=r"data/train.jsonl: no such file"):
        pair(DataConfig(train="data/train.jsonl"), seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": ""}, "data.train is empty"),
        ({"max_train_rows": -1}, "data.max_train_rows=-1"),
        ({"validation_fraction": 1.0}, "data.validation_fraction=1.0"),
        ({"prompt_template": "{a"}, "data.prompt_template"),
        ({"prompt_template": "{a.__class__}"}, "no plain column name"),
        ({"completion_template": "{}"}, "no plain column name"),
    ],
)
def test_data_config_is_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**values).check_data()


def test_every_turn_of_a_chat_may_be_learned(tmp_path):
    chat = [{"role": role, "content": f"{role} {turn}"} for turn in (1, 2) for role in ("user", "assistant")]
    rows = [{"messages": [{"role": "system", "content": "short"}, *chat]}, {"messages": chat[:2]}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for choice in ("last", "all"):
        config = DataConfig(train=str(path), validation_fraction=0.5, learned_turns=choice)
        parts = load_row_pair(config, 0)
        found[choice] = [[row["messages"][-1]["content"] for row in part.rows] for part in parts]
    # No chat lies in both parts.
    assert sorted(found["last"]) == [["assistant 1"], ["assistant 2"]]
    assert sorted(found["all"]) == [["assistant 1"], ["assistant 1", "assistant 2"]]
