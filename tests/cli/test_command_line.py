"""The command line that results carry."""

import sys

import pytest

from ssft.cli._result import command_line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["verify", "adapters/sql", "--limit", "3"], "ssft verify adapters/sql --limit 3"),
        (["verify", "/home/me/sql", "--data", "/data/rows.jsonl.gz"], "ssft verify sql --data rows.jsonl.gz"),
        (["bench", "adapters", "--data", "sql=/data/rows.jsonl"], "ssft bench adapters --data sql=rows.jsonl"),
        (["bench", "a", "--data=/data/rows.jsonl"], "ssft bench a --data=rows.jsonl"),
        (["generate", "a", "--prompt", "two words / one"], "ssft generate a --prompt 'two words / one'"),
        (["bench", "a", "--tree", "max_nodes=16"], "ssft bench a --tree max_nodes=16"),
    ],
)
def test_absolute_paths_lose_their_folders(arguments, expected):
    assert command_line(arguments) == expected


def test_the_process_own_arguments_are_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ssft", "env", "--json"])
    assert command_line() == "ssft env --json"
