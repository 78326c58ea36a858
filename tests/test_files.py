"""Files and folders appear whole or not at all, with the permissions of new files."""

import os
import subprocess
import sys
import threading

import pytest

from ssft.errors import ConfigError
from ssft.files import check_target, json_sha256, parse_json, whole_folder, write_bytes, write_text


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


# --- what the user names as output: a link, a device, a pipe ---


def test_an_output_goes_through_a_link(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old").write_text("before")
    for name, target in {"link": "results/old", "second": "link", "new": "results/new"}.items():
        (tmp_path / name).symlink_to(target)
    before = (tmp_path / "results" / "old").stat().st_ino
    write_text(tmp_path / "second", "after")
    write_text(tmp_path / "new", "fresh")
    assert all((tmp_path / name).is_symlink() for name in ("link", "second", "new"))
    found = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert found == {"old": "after", "new": "fresh"}
    assert (tmp_path / "results" / "old").stat().st_ino != before  # replaced whole, not written over


def test_a_loop_of_links_is_named(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match=r"--output \S*/a: its folder cannot be made"):
        check_target(tmp_path / "a")


def test_a_file_of_an_adapters_folder_replaces_a_link(tmp_path):
    """The folder may be a stranger's, whose link leads out of it."""
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "README.md").symlink_to("mine")
    write_bytes(tmp_path / "README.md", b"card")
    assert ((tmp_path / "mine").read_text(), (tmp_path / "README.md").is_symlink()) == ("precious", False)


def test_an_output_goes_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "all of it\n")
    reader.join(timeout=30)
    assert found == ["all of it\n"]
    assert (tmp_path / "pipe").is_fifo()


def test_an_output_goes_into_a_device(tmp_path):
    """By a link to it, lest a mistake of this very test replaces the system's own."""
    before = os.stat(os.devnull)
    (tmp_path / "null").symlink_to(os.devnull)
    write_text(tmp_path / "null", "gone")
    assert os.stat(os.devnull) == before
    assert (tmp_path / "null").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["null"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_device_is_named(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"--output .*full cannot be written .*No space left"):
        write_text(tmp_path / "full", "x")


@pytest.mark.parametrize("kind", ["pipe", "w", "a"])
def test_the_own_output_takes_a_result_between_what_is_printed(tmp_path, kind):
    """`ssft bench --output /dev/stdout > FILE`: neither is FILE replaced nor is anything in it written over."""
    code = (
        "from pathlib import Path\nfrom ssft.files import write_text\n"
        "print('first')\nwrite_text(Path('/dev/stdout'), 'result\\n')\nprint('last')"
    )
    expected = "first\nresult\nlast\n"
    if kind == "pipe":
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout == expected
        return
    (tmp_path / "file").write_text("before\n")
    with (tmp_path / "file").open(kind) as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert (tmp_path / "file").read_text() == ("before\n" if kind == "a" else "") + expected


# --- JSON that others wrote ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands twice"),
        ('[{"x": {"a": 1, "a": 1}}]', "key 'a' stands twice"),
        ('{"a": "\\ud800"}', r"\\ud800 is half a surrogate pair"),
        ('{"\\uDFFF": 1}', r"\\udfff is half a surrogate pair"),
        ('"\\ud83d \\ude00"', r"\\ud83d is half a surrogate pair"),
        ("9" * 6000, r"a number of 6,000 digits"),
        (f'{{"a": -{"9" * 6000}}}', r"a number of 6,001 digits"),
        ("[" * 100_000, "brackets stand too deep in brackets"),
        ('{"a": 1', "Expecting"),
    ],
)
def test_json_that_cannot_be_used_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_that_looks_like_it_is_read():
    assert parse_json('{"a": "\\ud83d\\ude00", "b": "\\\\ud800", "c": [1e400, -12]}') == {
        "a": "😀",
        "b": "\\ud800",
        "c": [float("inf"), -12],
    }
