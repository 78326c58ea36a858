"""Files and folders appear whole or not at all, with the permissions of new files."""

import os
import subprocess
import sys
import threading

import pytest

from ssft.files import json_sha256, whole_folder, write_bytes


def free(_target):
    """Whatever stands there may go."""


def modes(folder):
    return {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [("022", 0o755, 0o644), ("077", 0o700, 0o600)])
def test_the_umask_gives_the_modes(tmp_path, umask, folder_mode, file_mode):
    """In a process of its own: a umask is the whole process's."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom ssft.files import whole_folder, write_bytes\n"
        "os.umask(int(sys.argv[2], 8))\nhome = Path(sys.argv[1])\nwrite_bytes(home / 'file', b'x')\n"
        "with whole_folder(home / 'folder', lambda _: None) as folder:\n"
        "    (folder / 'below').mkdir()\n    (folder / 'below' / 'weights').touch(0o600)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path, umask], check=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == file_mode
    assert modes(tmp_path / "folder") == {"folder": folder_mode, "below": folder_mode, "weights": file_mode}


def test_writing_a_file_never_touches_the_umask(tmp_path, monkeypatch):
    """Another thread would create its files with the mask of this moment."""
    monkeypatch.setattr(os, "umask", lambda _mask: pytest.fail("the process's umask was set"))
    threads = [threading.Thread(target=write_bytes, args=(tmp_path / "same", bytes([n]) * 99)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = (tmp_path / "same").read_bytes()
    assert (len(data), len(set(data))) == (99, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="the disk is gone"):
        write_bytes(tmp_path / "file", b"after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "before"}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link", free) as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["new"]


def test_what_stood_there_comes_back_when_the_last_rename_fails(tmp_path, monkeypatch):
    target, rename = tmp_path / "target", os.replace
    target.mkdir()
    (target / "old").touch()

    def failing(source, destination):
        if (source / "new").exists():
            raise OSError("the disk is gone")
        rename(source, destination)

    def write():
        with whole_folder(target, free) as folder:
            (folder / "new").touch()

    monkeypatch.setattr("ssft.files.os.replace", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_target_is_asked_for_before_and_after(tmp_path):
    asked = []

    def once(target):
        asked.append(target)
        if len(asked) == 2:
            raise ValueError("taken meanwhile")

    def write():
        with whole_folder(tmp_path / "target", once):
            pass

    with pytest.raises(ValueError, match="taken meanwhile"):
        write()
    assert asked == [tmp_path / "target"] * 2
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_json_value_ignores_the_order_of_keys():
    assert json_sha256({"a": 1, "b": "é"}) == json_sha256({"b": "é", "a": 1}) != json_sha256({"a": 1, "b": "e"})
