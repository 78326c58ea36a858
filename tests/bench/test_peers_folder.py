"""The folder of an adapter's peers, and which methods run."""

import pytest
from fake_adapted import fake_adapted

from ssft.bench.methods import Setting
from ssft.bench.peers import peers_folder, ready_methods, twin_command, twin_folder
from ssft.errors import ConfigError, SSFTError


def test_the_folder_is_below_the_root_and_need_not_exist(tmp_path):
    assert peers_folder(None, "sql") is None
    assert peers_folder(tmp_path, "sql") == tmp_path / "sql"
    with pytest.raises(ConfigError, match=r"--peers .*none: no such folder; give the folder that holds sql/ with med"):
        peers_folder(tmp_path / "none", "sql")
    (tmp_path / "sql" / "medusa").mkdir(parents=True)
    assert peers_folder(tmp_path, "sql") == tmp_path / "sql"
    with pytest.raises(
        ConfigError, match=r"holds medusa itself; give the folder above it, which holds .* such as sql/"
    ):
        peers_folder(tmp_path / "sql", "sql")


def test_the_twin_and_the_command_that_makes_it(tmp_path):
    assert twin_folder(None) is twin_folder(tmp_path) is None
    (tmp_path / "twin").mkdir()
    assert twin_folder(tmp_path) == tmp_path / "twin"
    command = twin_command(tmp_path / "sql", tmp_path)
    assert command == f"ssft train {tmp_path}/sql/run.yaml method=lora --output {tmp_path}/twin"


def test_named_methods_must_run_and_plain_always(monkeypatch):
    setting = Setting(fake_adapted(streams=False), 3)
    methods, left_out = ready_methods(["plain"], setting)
    assert (list(methods), left_out) == (["plain"], None)
    with pytest.raises(SSFTError, match="has no streams"):
        ready_methods(["plain", "streaming"], setting)
    monkeypatch.setattr("ssft.bench.methods.plain.Method.__init__", _broken)
    with pytest.raises(ConfigError, match="not today"):
        ready_methods(None, setting)


def _broken(*_):
    raise ConfigError("not today")
