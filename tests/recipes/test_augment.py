"""Made-up names: which words are slots, what becomes of a row, and what a run and a command tell of it."""

import json
import random
import re

import pytest

from ssft.errors import ConfigError
from ssft.recipes.augment import count_slots, rename, rename_share
from ssft.recipes.config import DataConfig
from ssft.recipes.data import load_row_pair


def question(table, column, value, number, said=None):
    """A row as SQL data has it: schema in small letters, the value with capitals in the question alone."""
    asked = f"Question: Which {column} has {value} in {number}?"
    return {
        "prompt": f"Write SQL.\nSchema: CREATE TABLE {table} ({column} VARCHAR)\n{asked}",
        "completion": f'SELECT MAX({column}) FROM {table} WHERE a = "{said or value.lower()}" AND b > {number}',
    }


SQL = [
    question("table_1_20", "rider", "Anna Lind", "1962"),
    question("table_2_30", "points", "Max Ohm", "22,204"),
    question("table_3_40", "score", "Velo Club", "97-38"),
    question("table_4_50", "driver", "the red car", "7"),
]
CHAT = {
    "messages": [
        {"role": "user", "content": "I am Anna Lind. Who is Anna?"},
        {"role": "assistant", "content": "You are, Anna."},
    ]
}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        pytest.param(0, ["anna", "lind", "1962"], id="a_name_in_other_letters_and_a_number"),
        # MAX is what every completion says of itself, so the name Max is none that is copied.
        pytest.param(1, ["ohm", "22", "204"], id="a_word_of_the_answers_language_stays"),
        pytest.param(2, ["velo", "club", "97", "38"], id="numbers_apart"),
        pytest.param(3, [], id="small_words_columns_and_digits_stay"),
    ],
)
def test_slots_of_sql(row, found):
    assert count_slots(SQL).of_row(SQL[row]) == found


def test_identifiers_keywords_and_the_template_stay():
    renamed, _changed = rename_share(SQL, 1.0, seed=3)
    pattern = re.compile(r'SELECT MAX\((\w+)\) FROM (\w+) WHERE a = "(.+)" AND b > (\S+)')
    for old, new in zip(SQL, renamed, strict=True):
        was, now = (pattern.fullmatch(row["completion"]).groups() for row in (old, new))
        assert now[:2] == was[:2]
        assert now[2].casefold() in new["prompt"].casefold()
        assert f"in {now[3]}?" in new["prompt"]
        assert re.sub(r" has .*", "", new["prompt"]) == re.sub(r" has .*", "", old["prompt"])
        assert [len(part) for part in re.findall(r"\d+", now[3])] == [len(part) for part in re.findall(r"\d+", was[3])]
    assert renamed[3] is SQL[3]
    assert renamed[0]["prompt"] != SQL[0]["prompt"]


def test_words_that_half_of_the_prompts_have_are_of_the_template():
    rows = [{"prompt": f"Ask Person1 or {name}.", "completion": f"Person1 and {name}"} for name in ("Ada", "Bo", "Cy")]
    slots = count_slots(rows)
    assert [slots.of_row(row) for row in rows] == [["ada"], ["bo"], ["cy"]]


def test_a_capital_at_the_start_of_a_sentence_makes_no_name():
    row = {"prompt": "Read this. Congratulations!\nTickets: two", "completion": "congratulations tickets"}
    assert count_slots([row]).of_row(row) == []


def test_letters_without_capitals_are_no_names():
    row = {"prompt": "请 看 北京 吧", "completion": "北京"}
    assert count_slots([row]).of_row(row) == []


def test_all_texts_of_a_row_change_alike_and_keep_their_capitals():
    row = {
        "prompt": "name[Blue Dog], near[blue Lake]",
        "completion": "BLUE DOG is near the Lake.",
        "references": ["blue dog's lake", "No dog"],
        "category": "Dog",
    }
    others = ["the dog by a lake", "see Dog, Lake", "nothing", "nobody", "nowhere", "never"]
    rows = [row, *({"prompt": text, "completion": "x"} for text in others)]
    renamed = rename(row, count_slots(rows), random.Random(1))
    dog, lake = re.search(r"name\[Blue (\w+)\], near\[blue (\w+)\]", renamed["prompt"]).groups()
    assert dog.istitle()
    assert lake.istitle()
    assert len({dog, lake, "Dog", "Lake"}) == 4
    assert renamed["completion"] == f"BLUE {dog.upper()} is near the {lake}."
    assert renamed["references"] == [f"blue {dog.lower()}'s {lake.lower()}", f"No {dog.lower()}"]
    assert renamed["category"] == "Dog"
    assert row["completion"] == "BLUE DOG is near the Lake."


def test_a_chat_is_renamed_in_all_its_messages():
    renamed = rename(CHAT, count_slots([CHAT]), random.Random(0))
    asked, answered = (message["content"] for message in renamed["messages"])
    name = re.fullmatch(r"You are, (\w+)\.", answered)[1]
    assert name != "Anna"
    assert asked == f"I am {name} Lind. Who is {name}?"
    assert CHAT["messages"][1]["content"] == "You are, Anna."


def test_made_up_words_stand_in_no_row():
    renamed, changed = rename_share(SQL, 1.0, 0)
    names = {word for i in changed for word in re.findall(r"[A-Z][a-z]+", renamed[i]["prompt"])}
    known = {word for row in SQL for word in re.findall(r"\w+", row["prompt"])}
    fresh = names - known
    assert len(fresh) == 5
    again, _changed = rename_share(SQL, 1.0, 0, others=[{"prompt": " ".join(fresh), "completion": "x"}])
    assert not fresh & {word for row in again for word in re.findall(r"\w+", row["prompt"])}


def test_short_numbers_that_are_all_known_still_change():
    rows = [{"prompt": "all " + " ".join(map(str, range(10, 100))), "completion": "none"}]
    rows += [{"prompt": "take 42 of them", "completion": "42 it is"}, {"prompt": "a", "completion": "b"}]
    rows += [{"prompt": "c", "completion": "d"}] * 2
    renamed, changed = rename_share(rows, 1.0, 0)
    assert changed == [1]
    number = re.fullmatch(r"(\d\d) it is", renamed[1]["completion"])[1]
    assert number != "42"
    assert renamed[1]["prompt"] == f"take {number} of them"


def test_a_share_of_the_rows_is_drawn_by_the_seed_and_the_rows_place():
    rows = [question(f"table_{i}", f"column_{i}", f"Anna{chr(97 + i % 26)} Lind", str(1000 + i)) for i in range(200)]
    renamed, changed = rename_share(rows, 0.25, seed=5)
    assert 25 < len(changed) < 80
    assert [i for i in range(200) if renamed[i] is not rows[i]] == changed
    assert rename_share(rows, 0.25, seed=5)[0] == renamed
    assert rename_share(rows, 0.25, seed=6)[1] != changed
    assert set(changed) < set(rename_share(rows, 0.5, seed=5)[1])


@pytest.fixture
def files(tmp_path):
    paths = []
    for name, rows in (("train", SQL * 5), ("validation", SQL)):
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"train": str(paths[0]), "validation": str(paths[1])}


def test_a_run_augments_its_training_rows_alone_and_tells_it(files):
    plain, _ = load_row_pair(DataConfig(**files), seed=1)
    train, validation = load_row_pair(DataConfig(**files, augment=0.5), seed=1)
    assert validation.rows == SQL
    changed = [i for i, row in enumerate(train.rows) if row != plain.rows[i]]
    assert 0 < len(changed) < 15
    first = train.rows[changed[0]]["completion"][:40]
    assert re.search(
        rf"20 rows .*, {len(changed)} of them with made-up names and numbers \(data.augment=0.5\)", train.note
    )
    assert f"such as '{first}" in train.note
    assert load_row_pair(DataConfig(**files, augment=0.5), seed=1)[0] == train
    assert load_row_pair(DataConfig(**files), seed=1)[0].rows == SQL * 5


def test_a_run_tells_that_no_row_has_a_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "say hi", "completion": "hi"}\n' * 40)
    train, _ = load_row_pair(DataConfig(train=str(path), augment=1.0), seed=0)
    assert train.note.endswith("0 of them with made-up names and numbers (data.augment=1)")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_lies_between_none_and_all(share):
    with pytest.raises(ConfigError, match=r"data\.augment=\S+: a share of the training rows from 0 \(none\) to 1"):
        DataConfig(augment=share).check_data()
