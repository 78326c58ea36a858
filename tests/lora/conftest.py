"""The folders of `adapter_fixtures.py` for the tests here."""

from adapter_fixtures import folder, master, written

__all__ = ["folder", "master", "written"]
