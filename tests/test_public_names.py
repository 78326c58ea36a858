"""The public names exist, are the ones that are listed, and cost nothing until they are used."""

import subprocess
import sys

import pytest

import ssft


@pytest.mark.parametrize("name", [n for n in ssft.__all__ if n != "__version__"])
def test_every_listed_name_resolves(name):
    assert getattr(ssft, name).__name__ == name


def test_the_list_and_the_homes_agree():
    assert {*ssft._HOMES, "__version__"} == set(ssft.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Medusa'"):
        _ = ssft.Medusa


def test_importing_the_package_does_not_import_torch():
    code = "import ssft, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
