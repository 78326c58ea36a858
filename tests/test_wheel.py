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
from tiny_base import save_tiny_base

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


MANY = """
import json, sys
from click.testing import CliRunner
from ssft.cli.main import cli

told = [CliRunner().invoke(cli, words) for words in json.loads(sys.argv[1])]
print(json.dumps([[done.exit_code, done.stdout, done.stderr] for done in told]))
"""
"""A program that calls commands one after the other, and tells of each its exit code, stdout and stderr."""


@pytest.fixture
def python(site, tmp_path, monkeypatch):
    """Runs Python with the wheel's package from an empty folder; its stdout."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*words):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

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


def test_commands_work_beside_no_source_tree(python, site):
    recipes = {r["name"]: r["path"] for r in json.loads(python("-m", "ssft", "recipes", "--json"))["recipes"]}
    assert recipes["peers/draft_sql"] == str(site / "ssft" / "_recipes" / "peers" / "draft_sql.yaml")
    calls = [
        ["env", "--json"],
        ["inspect", "adapters/sql", "--json"],
        ["recipes", "show", "adapters/sql/run.yaml"],
        ["recipes", "show", "adapters/sql/x.yaml"],
    ]
    env, inspected, shown, unknown = json.loads(python("-c", MANY, json.dumps(calls)))
    assert [code for code, *_ in (env, inspected, shown, unknown)] == [0, 0, 0, 2]
    assert json.loads(env[1])["ssft"] == __version__
    facts = json.loads(inspected[1])
    assert (facts["path"], facts["format_version"]) == (str(site / "ssft" / "_adapters" / "sql"), 3)
    # The settings of a shipped adapter are found, and only those that there are.
    assert shown[1] == (ROOT / "adapters" / "sql" / "run.yaml").read_text()
    assert "'adapters/sql/x.yaml' is neither a shipped recipe nor" in unknown[2]


@needs_base
@pytest.mark.slow
def test_it_trains_and_decodes_with_what_came_in_it(python, tmp_path):
    save_tiny_base(tmp_path / "base")
    row = {"context": "CREATE TABLE table_1_10_1 (name VARCHAR, age INTEGER)", "question": "How old is Ann?"}
    calls = [
        [
            "train",
            "quickstart",
            "base=base",
            "training.num_msa_layers=2",
            "data.max_train_rows=4",
            "--dry-run",
            "--json",
        ],
        ["generate", "adapters/sql", "--row", json.dumps(row), "--max-new-tokens", "24", "--json"],
    ]
    trained, generated = json.loads(python("-c", MANY, json.dumps(calls)))
    assert [code for code, *_ in (trained, generated)] == [0, 0], (trained, generated)
    assert json.loads(trained[1])["recipe"]["name"] == "quickstart"
    answer = json.loads(generated[1])
    assert answer["prompt"].endswith("Question: How old is Ann?\n\nSQL:\n")
    assert answer["completion"].startswith("SELECT")
    assert answer["calls"] < answer["tokens"]
