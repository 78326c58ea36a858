"""The report's three files: written whole, the numbers first, nothing stale beside them."""

import pytest
from sample_results import sample_suite

from ssft.bench.report import page
from ssft.bench.report.page import REPORT_FILES, write_report
from ssft.errors import ConfigError
from ssft.results.reading import read_comparison


def test_the_report_is_three_files_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "report"
    written = write_report(sample_suite(), folder)
    assert [path.name for path in written] == list(REPORT_FILES)
    assert sorted(folder.iterdir()) == sorted(written)
    assert read_comparison(folder / "report.json") == sample_suite()
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_without_a_finished_task_has_no_picture(tmp_path):
    result = sample_suite()
    result.tasks, result.interrupted = {}, True
    assert [path.name for path in write_report(result, tmp_path)] == list(REPORT_FILES[:2])
    assert "what was finished: nothing." in (tmp_path / "report.html").read_text()
    # An older run's picture would show numbers that the new JSON does not have; other files are the user's.
    (tmp_path / "report.png").write_bytes(b"older")
    (tmp_path / "other.png").write_bytes(b"own")
    write_report(result, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.png", *REPORT_FILES[1::-1]]


def test_the_numbers_are_safe_before_the_page_is_made(tmp_path, monkeypatch):
    def fail(result):
        raise RuntimeError("no page")

    monkeypatch.setattr(page, "html_report", fail)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(sample_suite(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_report_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="folder cannot be made"):
        write_report(sample_suite(), tmp_path / "file")
