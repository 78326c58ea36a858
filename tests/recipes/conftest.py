"""A recipe of one's own as a file."""

import pytest


@pytest.fixture
def write_recipe(tmp_path):
    """Writes a recipe's text to a file, and gives its path."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write
