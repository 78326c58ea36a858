"""A bundle whose card the tests write."""

import json
import shutil

import pytest
from fake_adapted import save_bundle
from tiny_base import save_tiny_base

from ssft.bundle.format import PROVENANCE


@pytest.fixture(scope="session")
def master(tmp_path_factory):
    """A folder with `base` and `adapter`: a LoRA that is no identity, with streams; its training is unknown."""
    root = tmp_path_factory.mktemp("card")
    folder = save_bundle(root / "adapter", save_tiny_base(root / "base"))
    (folder / PROVENANCE).write_text(json.dumps({}))
    return root


@pytest.fixture
def written(master, tmp_path):
    """(base folder, adapter folder) of one's own."""
    shutil.copytree(master, tmp_path, dirs_exist_ok=True)
    return tmp_path / "base", tmp_path / "adapter"
