"""`ssft env`: the facts that a result depends on."""

import importlib.metadata
import json
import platform

import torch
from click.testing import CliRunner

from ssft import environment
from ssft._version import __version__
from ssft.cli.main import cli
from ssft.environment import LIBRARIES, describe_device, versions


def test_env_as_json(monkeypatch, tmp_path):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path))
    result = CliRunner().invoke(cli, ["env", "--json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["ssft"] == __version__
    assert facts["python"] == platform.python_version()
    assert set(facts["packages"]) == set(LIBRARIES)
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
    for name in ("ssft", *(f"packages.{name}" for name in LIBRARIES), "cpu.native_bfloat16", "cache_dir"):
        assert f"\n{name} " in result.stdout


def test_a_package_that_is_not_installed_is_null(monkeypatch):
    monkeypatch.setattr(environment, "LIBRARIES", ("torch", "no-such-package-of-ssft"))
    monkeypatch.setattr("ssft.cli.env.LIBRARIES", ("torch", "no-such-package-of-ssft"))
    assert set(versions()) == {"ssft", "torch"}
    facts = json.loads(CliRunner().invoke(cli, ["env", "--json"]).stdout)
    assert facts["packages"] == {"torch": importlib.metadata.version("torch"), "no-such-package-of-ssft": None}


def test_a_device_is_described_by_its_name_and_threads():
    facts = json.loads(CliRunner().invoke(cli, ["env", "--json"]).stdout)["cpu"]
    assert describe_device(torch.device("cpu")) == f"cpu: {facts['model']}, {facts['threads']} threads"
