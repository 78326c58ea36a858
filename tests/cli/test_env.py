"""`ssft env`: the facts that a result depends on."""

import importlib.metadata
import json
import platform

import torch
from click.testing import CliRunner

from ssft._version import __version__
from ssft.cli import env
from ssft.cli.main import cli


def test_env_as_json(monkeypatch, tmp_path):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path))
    result = CliRunner().invoke(cli, ["env", "--json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["ssft"] == __version__
    assert facts["python"] == platform.python_version()
    assert set(facts["packages"]) == set(env.PACKAGES)
    assert facts["packages"]["torch"] == importlib.metadata.version("torch")
    assert facts["cpu"]["model"]
    assert facts["cpu"]["cores"] >= 1
    assert facts["cpu"]["threads"] == torch.get_num_threads()
    assert isinstance(facts["cpu"]["native_bfloat16"], bool)
    assert (facts["cuda"] is None) == (not torch.cuda.is_available())
    assert facts["cache_dir"] == str(tmp_path)


def test_env_as_a_table():
    result = CliRunner().invoke(cli, ["env"])
    assert result.exit_code == 0
    for name in ("ssft", *env.PACKAGES, "native bfloat16", "cache folder"):
        assert f"\n{name} " in result.stdout


def test_a_package_that_is_not_installed_is_null():
    assert env._version("no-such-package-of-ssft") is None
