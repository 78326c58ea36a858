"""The adapters that ship: by which names they are found, and what every one of them must be."""

from pathlib import Path

import pytest

from ssft.adapters import shipped
from ssft.adapters.hub import resolve_adapter
from ssft.adapters.shipped import shipped_adapter, shipped_adapters
from ssft.errors import BundleError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the package's folder; the test says what lies in and beside it."""
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "ssft" / "adapters" / "shipped.py"))
    return tmp_path / "ssft"


def make(folder):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").touch()
    return folder


def test_a_source_tree_has_them_beside_the_package(package):
    folder = make(package.parent / "adapters" / "sql")
    (package.parent / "adapters" / "README.md").touch()
    assert shipped_adapters() == {"adapters/sql": folder}


def test_a_wheel_has_them_inside_the_package(package):
    make(package.parent / "adapters" / "somebody_elses")
    folder = make(package / "_adapters" / "sql")
    assert shipped_adapters() == {"adapters/sql": folder}


def test_they_are_found_from_any_working_folder(package, tmp_path, monkeypatch):
    folder = make(package / "_adapters" / "sql")
    monkeypatch.chdir(make(tmp_path / "elsewhere"))
    assert resolve_adapter("adapters/sql") == folder
    assert resolve_adapter(Path("adapters/sql")) == folder
    assert shipped_adapter("sql") is None  # a name alone is nobody's


def test_a_folder_here_comes_first(package, tmp_path, monkeypatch):
    make(package / "_adapters" / "sql")
    make(tmp_path / "elsewhere" / "adapters" / "sql")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve_adapter("adapters/sql") == Path("adapters/sql")


def test_the_refusal_names_those_that_ship(package):
    make(package / "_adapters" / "sql")
    make(package / "_adapters" / "e2e_nlg")
    with pytest.raises(BundleError, match=r"comes with ssft \(adapters/e2e_nlg, adapters/sql\)"):
        resolve_adapter("sql")
