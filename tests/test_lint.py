"""Every Python file of the repository is linted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def lines_of(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a git checkout says which files are tracked")
def test_every_tracked_python_file_is_linted():
    tracked = {ROOT / name for name in lines_of("git", "ls-files", "*.py") if (ROOT / name).exists()}
    linted = set(map(Path, lines_of(sys.executable, "-m", "ruff", "check", "--show-files")))
    assert Path(__file__) in tracked
    assert sorted(tracked - linted) == []
