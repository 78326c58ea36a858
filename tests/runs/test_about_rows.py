"""What a run tells of its rows: their form, and an example where the data are not the user's own."""

from datasets import Dataset
from tiny_base import rows, save_rows

from ssft.recipes.data import DataConfig
from ssft.runs.provenance import LONGEST_EXAMPLE, about_rows

TRAIN, HELD = Dataset.from_list(rows(2)), Dataset.from_list(rows(2, start=5))


def test_the_example_was_held_back():
    assert about_rows(DataConfig(), TRAIN, HELD) == {"form": "prompt", "example": rows(1, start=5)[0]}
    assert about_rows(DataConfig(), TRAIN, HELD.select([])) == {"form": "prompt", "example": rows(1)[0]}


def test_rows_of_the_users_own_files_are_not_told(tmp_path):
    own = str(save_rows(tmp_path / "rows.jsonl", rows(2)))
    assert about_rows(DataConfig(train=own), TRAIN, HELD) == {"form": "prompt"}
    assert about_rows(DataConfig(validation=str(tmp_path)), TRAIN, HELD) == {"form": "prompt"}


def test_a_long_row_is_no_example():
    long, short = {"prompt": "x" * LONGEST_EXAMPLE, "completion": "y"}, {"prompt": "x", "completion": "y"}
    assert about_rows(DataConfig(), TRAIN, Dataset.from_list([long, short]))["example"] == short
    assert "example" not in about_rows(DataConfig(), TRAIN, Dataset.from_list([long]))


def test_chats():
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert about_rows(DataConfig(), Dataset.from_list([chat]), HELD.select([])) == {"form": "messages", "example": chat}
