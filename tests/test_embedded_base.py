"""The real base: `make test` fetches it and requires it; a plain `pytest` without it skips its tests and says so."""

import re
from pathlib import Path

import embedded_base
import pytest
from embedded_base import BASE, REQUIRE, check_base

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(embedded_base, "is_fetched", lambda name: False)
    monkeypatch.delenv(REQUIRE, raising=False)


def test_without_the_base_its_tests_are_skipped_with_the_command_that_fetches_it(missing):
    with pytest.raises(pytest.skip.Exception, match=f"is not fetched .`ssft bases fetch {BASE}`"):
        check_base()


def test_a_missing_base_is_an_error_where_it_is_required(missing, monkeypatch):
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match=f"is not fetched .*{REQUIRE}=1 requires it"):
        check_base()


def test_a_base_in_the_cache_is_used(monkeypatch):
    monkeypatch.setattr(embedded_base, "is_fetched", lambda name: name == BASE)
    monkeypatch.setenv(REQUIRE, "1")
    check_base()


def test_make_test_fetches_the_base_and_requires_it():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needs, recipe = re.search(r"^test:(.*)\n((?:\t.*\n)+)", makefile, re.MULTILINE).groups()
    assert "base" in needs.split()
    assert f"{REQUIRE}=1 " in recipe
    assert re.search(rf"^base:.*\n\t.* -m ssft bases fetch {BASE}$", makefile, re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").endswith("\nexec make test\n")
