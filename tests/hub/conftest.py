"""What both files of tests push and pull."""

import pytest
from hub_shelf import copy_of


@pytest.fixture
def adapter(tmp_path):
    """A copy of the shelf's bundle "deep" to change."""
    return copy_of("deep", tmp_path / "deep")  # its name stands in its card
