"""The wheel: what is in it, and that ssft works from it alone, in an empty folder beside no source tree."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from embedded_base import needs_base

from ssft._version import __version__

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"ssft": "ssft", "recipes": "ssft/_recipes", "adapters": "ssft/_adapters"}
"""Folder of the source tree -> where the wheel has it."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this source tree. Where hatchling is not installed (`.[dev]` has it), pip fetches it to build."""
    folder = tmp_path_factory.mktemp("wheel")
    own = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", *own]
    done = subprocess.run([*command, "--wheel-dir", folder, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / f"ssft-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def site(wheel):
    """A folder of packages with the wheel's in it, as pip unpacks it."""
    folder = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def ssft(site, tmp_path, monkeypatch):
    """Runs a command with the wheel's package from an empty folder; stdout, or with `code` 2 the error."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*words, code=0):
        command = [sys.executable, "-m", "ssft", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return run


def test_it_holds_the_package_the_recipes_and_the_adapters_and_nothing_else(wheel):
    expected = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in PLACES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"ssft-{__version__}.dist-info"
        assert {name for name in names if not name.startswith(about)} == expected
        assert f"{about}/licenses/LICENSE" in names
        assert archive.read(f"{about}/entry_points.txt").decode().split() == [
            "[console_scripts]", "ssft", "=", "ssft.cli.main:main",
        ]  # fmt: skip
        assert (
            archive.read("ssft/_adapters/sql/streams.safetensors")
            == (ROOT / "adapters" / "sql" / "streams.safetensors").read_bytes()
        )


def test_commands_work_beside_no_source_tree(ssft, site):
    assert json.loads(ssft("env", "--json"))["ssft"] == __version__
    recipes = {recipe["name"]: recipe["path"] for recipe in json.loads(ssft("recipes", "--json"))["recipes"]}
    assert recipes["peers/draft_sql"] == str(site / "ssft" / "_recipes" / "peers" / "draft_sql.yaml")
    facts = json.loads(ssft("inspect", "adapters/sql", "--json"))
    assert (facts["path"], facts["format_version"]) == (str(site / "ssft" / "_adapters" / "sql"), 3)


def test_the_settings_of_a_shipped_adapter_are_found(ssft, site):
    assert ssft("recipes", "show", "adapters/sql/run.yaml") == (ROOT / "adapters" / "sql" / "run.yaml").read_text()
    assert "'adapters/sql/x.yaml' is neither a shipped recipe nor" in ssft(
        "recipes", "show", "adapters/sql/x.yaml", code=2
    )


@needs_base
@pytest.mark.slow
def test_it_trains_and_decodes_with_what_came_in_it(ssft):
    facts = json.loads(ssft("train", "quickstart", "data.max_train_rows=4", "--dry-run", "--json"))
    assert facts["recipe"]["name"] == "quickstart"
    row = {"context": "CREATE TABLE table_1_10_1 (name VARCHAR, age INTEGER)", "question": "How old is Ann?"}
    answer = json.loads(ssft("generate", "adapters/sql", "--row", json.dumps(row), "--max-new-tokens", "24", "--json"))
    assert answer["prompt"].endswith("Question: How old is Ann?\n\nSQL:\n")
    assert answer["completion"].startswith("SELECT")
    assert answer["calls"] < answer["tokens"]
