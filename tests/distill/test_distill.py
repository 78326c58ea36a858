"""`ssft distill`: the rows are the model's own text, one seed gives one file, and a killed call ends with that file."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from shelf import save_adapter
from tiny_base import rows, save_rows, save_tiny_base, tiny_tokenizer

from ssft.base.chat import open_user_turn
from ssft.cli.distill import command
from ssft.distill.row_file import RowFile
from ssft.distill.talk import Talker
from ssft.errors import ConfigError, DataError
from ssft.recipes.data import load_rows
from ssft.runtime.loader import load_adapted
from ssft.streams.config import StreamConfig

PROMPTS = 11


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A base whose texts often end, an adapter with streams, prompts and chats."""
    folder = tmp_path_factory.mktemp("distill")
    save_tiny_base(folder / "base")
    save_adapter(folder / "adapter", folder / "base", streams=StreamConfig(2, 2))
    save_rows(folder / "prompts.jsonl", [*rows(PROMPTS), *rows(2)])
    chats = [[{"role": "user", "content": f"what is {i}?"}] for i in range(5)]
    save_rows(folder / "chats.jsonl", [{"messages": chat} for chat in chats])
    return folder


COMMON = ["--dtype", "float32", "--max-new-tokens", "60", "--batch-size", "3"]
DRAWN = ["--data", "prompts.jsonl", "--temperature", "1.3", "--seed", "5"]
ASKED = ["--questions", "5", "--max-question-tokens", "60", "--seed", "3"]


def run(shelf, name, *more, monkeypatch=None):
    words = [str(shelf / word) if word.endswith(".jsonl") or word == "adapter" else word for word in map(str, more)]
    arguments = [str(shelf / "base"), "--output", str(shelf / name), *COMMON, *words]
    return CliRunner().invoke(command, arguments)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def interrupt(patch, after):
    """Ctrl-C while the batch after `after` whole ones is being answered."""
    left, rows_of = [after], Talker.rows

    def rows(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rows_of(self, *arguments)

    patch.setattr(Talker, "rows", rows)


def test_answers_are_the_models_own_and_each_prompt_comes_once(shelf):
    done = run(shelf, "greedy.jsonl", "--data", "prompts.jsonl", "--adapter", "adapter")
    assert done.exit_code == 0, done.output
    assert "2 rows of" in done.output
    found = read(shelf / "greedy.jsonl")
    assert 2 <= len(found) < PROMPTS
    adapted = load_adapted(shelf / "adapter", str(shelf / "base"), dtype="float32")
    for row in found:
        assert row["prompt"] == rows(PROMPTS)[row["row"]]["prompt"]
        answer = adapted.generate({"prompt": row["prompt"]}, max_new_tokens=60, return_dict=True, speculate=False)
        assert row["completion"] == answer["text"]
        assert answer["finish_reason"] == "eos"
        assert "seed" not in row


def test_a_seed_gives_one_file_and_a_row_does_not_see_its_neighbours(shelf):
    for name, more in (
        ("a.jsonl", []),
        ("b.jsonl", []),
        ("c.jsonl", ["--batch-size", "5"]),
        ("d.jsonl", ["--seed", "6"]),
    ):
        assert run(shelf, name, *DRAWN, *more).exit_code == 0
    texts = [(shelf / f"{name}.jsonl").read_bytes() for name in "abcd"]
    assert texts[0] == texts[1] == texts[2] != texts[3]
    found = read(shelf / "a.jsonl")
    assert len(found) >= 4
    assert all(row["seed"] == 5 + row["row"] for row in found)
    assert len(load_rows(shelf / "a.jsonl")) == len(found)


@pytest.mark.parametrize("how", [DRAWN, [*ASKED, "--questions", "3", "--turns", "2"]], ids=["answers", "questions"])
def test_a_call_that_was_killed_three_times_ends_with_the_undisturbed_file(shelf, tmp_path, monkeypatch, how):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert run(shelf, whole, *how).exit_code == 0
    for _ in range(3):
        with monkeypatch.context() as patch:
            interrupt(patch, 1)
            assert run(shelf, cut, *how).exit_code == 1  # click's own for Ctrl-C
        if lines := cut.read_bytes():
            cut.write_bytes(lines[:-7])  # the last line is torn
    done = run(shelf, cut, *how)
    assert done.exit_code == 0, done.output
    assert cut.read_bytes() == whole.read_bytes()
    assert run(shelf, cut, *how).exit_code == 0
    assert cut.read_bytes() == whole.read_bytes()


def test_the_model_asks_itself_and_what_is_left_out_is_counted(shelf):
    done = run(shelf, "asked.jsonl", *ASKED, "--json")
    assert done.exit_code == 0, done.output
    facts, found = json.loads(done.stdout), read(shelf / "asked.jsonl")
    assert facts["rows"] == len(found) == 5
    assert facts["left_out"]
    assert found[-1]["row"] + 1 == 5 + sum(facts["left_out"].values())
    for row in found:
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
    # The first question is what the seed draws behind the opened turn, and the answer is the likeliest.
    adapted, row = load_adapted(None, str(shelf / "base"), dtype="float32"), found[0]
    before, after = open_user_turn([], adapted.tokenizer)
    assert (before, after) == ("user: ", "\n")
    ids = adapted.tokenizer(before, add_special_tokens=False)["input_ids"]
    how = {"temperature": 1.0, "top_p": 0.95, "seed": row["seed"]}
    assert adapted.generate(ids, stop="\n", max_new_tokens=60, **how).strip() == row["messages"][0]["content"]
    assert adapted.generate(row["messages"][:1], max_new_tokens=60) == row["messages"][1]["content"]


def test_chats_are_answered_and_go_on(shelf):
    assert (
        run(shelf, "chat.jsonl", "--data", "chats.jsonl", "--turns", "2", "--max-question-tokens", "60").exit_code == 0
    )
    for row in read(shelf / "chat.jsonl"):
        assert row["messages"][0]["content"] == f"what is {row['row']}?"
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2


def test_an_answer_that_is_cut_off_is_kept_where_that_was_asked_for(shelf):
    how = ["--data", "chats.jsonl", "--turns", "2", "--max-question-tokens", "60", "--max-new-tokens", "4"]
    assert run(shelf, "cut.jsonl", *how, "--keep-cut-off").exit_code == 0
    found = read(shelf / "cut.jsonl")
    cut = [row for row in found if row.get("cut_off")]
    assert cut
    adapted = load_adapted(None, str(shelf / "base"), dtype="float32")
    for row in cut:
        # The chat ends with the answer that has no end, after one turn or after two.
        assert len(row["messages"]) in (2, 4)
        said = adapted.generate(row["messages"][:-1], max_new_tokens=4, return_dict=True)
        assert (said["text"], said["finish_reason"]) == (row["messages"][-1]["content"], "length")
    assert len(load_rows(shelf / "cut.jsonl")) == len(found)


def test_without_that_just_the_answers_that_are_cut_off_are_left_out(shelf):
    assert run(shelf, "all.jsonl", "--data", "prompts.jsonl", "--keep-cut-off").exit_code == 0
    assert run(shelf, "ended.jsonl", "--data", "prompts.jsonl").exit_code == 0
    found, ended = read(shelf / "all.jsonl"), read(shelf / "ended.jsonl")
    assert [row for row in found if "cut_off" not in row] == ended
    assert 0 < len(ended) < len(found) == PROMPTS


def test_a_file_of_other_prompts_or_settings_is_left_alone(shelf, tmp_path):
    own = tmp_path / "own.jsonl"
    assert run(shelf, own, *DRAWN).exit_code == 0
    before, first = own.read_bytes(), read(own)[0]["row"]
    other = [{**row, "prompt": f"tell {row['prompt']}"} for row in rows(PROMPTS)]
    save_rows(tmp_path / "other.jsonl", other)
    with pytest.raises(
        DataError, match=rf"own.jsonl, line 1: its prompt is not prompt {first + 1} of the 11 given now"
    ):
        raise run(shelf, own, "--data", str(tmp_path / "other.jsonl"), *DRAWN[2:]).exception
    with pytest.raises(ConfigError, match=r"begun with another seed \(5 then, 6 now\)"):
        raise run(shelf, own, *DRAWN[:-1], "6").exception
    assert own.read_bytes() == before
    save_rows(tmp_path / "more.jsonl", rows(PROMPTS + 2))
    assert run(shelf, own, "--data", str(tmp_path / "more.jsonl"), *DRAWN[2:]).exit_code == 0
    assert own.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "line 1: "),
        ('{"row": 1}\n{"row": 1}\n', "line 2: row=1 is not the number of a row after the line above"),
        ('{"row": "a"}\n', "line 1: row='a' is not the number"),
        ("[]\n", "line 1: row=None is not the number"),
    ],
)
def test_a_file_that_was_changed_is_refused_by_its_line(tmp_path, text, message):
    RowFile(tmp_path / "rows.jsonl", {"seed": 1}).append([])
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        RowFile(tmp_path / "rows.jsonl", {"seed": 1})


def test_nothing_goes_into_a_pipe_or_a_strangers_file(tmp_path):
    with pytest.raises(ConfigError, match="is a device or a pipe"):
        RowFile(Path("/dev/null"), {})
    (tmp_path / "mine.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        RowFile(tmp_path / "mine.jsonl", {})


def test_no_row_that_could_be_trained_on_is_an_error(shelf, tmp_path):
    done = run(shelf, tmp_path / "none.jsonl", "--data", "prompts.jsonl", "--max-new-tokens", "1")
    with pytest.raises(DataError, match="11 left out: answer cut off 11; no row is fit to train on"):
        raise done.exception


@pytest.mark.parametrize(
    ("template", "message"), [(None, "has no chat template"), ("{{ 'hidden' }}", "does not show the user's message")]
)
def test_a_base_that_does_not_show_the_users_turn_cannot_ask(template, message):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=message):
        open_user_turn([], tokenizer)
