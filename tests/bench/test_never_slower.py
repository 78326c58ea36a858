"""`ssft bench never-slower`: five kinds of input for every adapter, and a verdict on each."""

import json

import pytest
from click.testing import CliRunner
from fake_adapted import fake_adapted
from tiny_base import rows, save_rows

from ssft.bench import never_slower
from ssft.bench.never_slower import LEAST, SHORT, Pace, inputs, paces_sentence, paces_table
from ssft.bench.suite import SuiteSettings
from ssft.cli.main import cli
from ssft.runtime import loader

KINDS = ["own task", "another task", "chat", "short answers", "random ids"]


def pace(speedup, kind="chat", size=1):
    return Pace("sql", kind, size, 4, speedup, (speedup - 0.1, speedup + 0.1), 1.0, 4)


def test_inputs_are_of_five_kinds():
    adapted = fake_adapted()
    own, other, chat = ([{"prompt": f"{first} {i}"} for i in range(3)] for first in (5, 9, 30))
    settings = SuiteSettings(max_new_tokens=20, seed=3)
    found = inputs(adapted, own, other, chat, settings)
    assert list(found) == KINDS
    prompts = {kind: given for kind, (given, _) in found.items()}
    assert [most for _, most in found.values()] == [20, 20, 20, SHORT, 20]
    assert prompts["short answers"] == prompts["own task"] != prompts["another task"] != prompts["chat"]
    assert [len(ids) for ids in prompts["random ids"]] == [len(ids) for ids in prompts["own task"]]
    assert prompts["random ids"] != prompts["own task"]
    assert inputs(adapted, own, other, chat, settings) == found
    assert inputs(adapted, own, other, chat, SuiteSettings(seed=4))["random ids"] != found["random ids"]


@pytest.mark.parametrize(("lowest", "verdict"), [(LEAST, "PASS"), (LEAST - 0.001, "FAIL")])
def test_a_speed_up_below_the_least_fails(lowest, verdict):
    paces = [pace(1.4), pace(lowest, "own task", 8)]
    table = paces_table(paces)
    assert [row[-1] for row in table.texts()] == ["PASS", verdict]
    assert table.marks == ({1: "wrong"} if verdict == "FAIL" else {})
    assert paces_sentence(paces).startswith(f"{verdict}: ")
    assert ("sql on own task, batch 8: 0.97" in paces_sentence(paces)) == (verdict == "FAIL")


# --- the command ---


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    names = iter(["sql", "mr"])
    monkeypatch.setattr(loader, "load_adapted", lambda *_, **__: fake_adapted(name=next(names)))
    data = [save_rows(tmp_path / f"{name}.jsonl", [{"prompt": f"{i} 7"} for i in (5, 6)]) for name in ("sql", "mr")]
    chat = save_rows(tmp_path / "chat.jsonl", [{"prompt": f"8 {i}"} for i in range(9, 12)])
    files = ["--data", f"sql={data[0]}", "--data", f"mr={data[1]}", "--chat", chat]
    return ["sql", "mr", *files, "--limit", 2, "--rounds", 1, "--max-new-tokens", 4, "--batch-size", 2]


def run(*args):
    return CliRunner().invoke(cli, ["bench", "never-slower", *map(str, args)])


def test_every_kind_is_measured_at_both_sizes(arguments, tmp_path):
    done = run(*arguments, "--output", tmp_path / "paces.json")
    facts = json.loads((tmp_path / "paces.json").read_text())
    lines = [(line["adapter"], line["kind"], line["batch_size"]) for line in facts["paces"]]
    assert lines == [(name, kind, size) for name in ("sql", "mr") for kind in KINDS for size in (1, 2)]
    assert all(line["identical"] == line["rows"] == 2 for line in facts["paces"])
    assert (facts["rounds"], facts["precision"]) == (1, "float32")
    slow = [line for line in facts["paces"] if line["speedup"] < LEAST]
    assert done.exit_code == int(bool(slow)), done.output
    assert done.stdout.count("FAIL") == len(slow) + bool(slow)
    assert "at most 2 prompts of every kind, 1 round, float32 on cpu" in done.stdout


@pytest.mark.parametrize("lowest", [LEAST, LEAST - 0.001])
def test_the_exit_code_is_the_verdict(arguments, monkeypatch, lowest):
    monkeypatch.setattr(never_slower, "measure_paces", lambda *_: [pace(1.4), pace(lowest)])
    done = run(*arguments, "--json")
    assert done.exit_code == int(lowest < LEAST)
    assert [found["speedup"] for found in json.loads(done.stdout)["paces"]] == [1.4, lowest] * 2


def test_one_adapter_has_no_other_task(tmp_path):
    done = run("sql", "--chat", save_rows(tmp_path / "chat.jsonl", rows(2)))
    assert done.exit_code == 2
    assert "sql is the only adapter, so there is no other task; name two adapters or more" in done.output


def test_chat_questions_are_asked_for():
    done = run("sql", "mr")
    assert done.exit_code == 2
    assert "Missing option '--chat'" in done.output
