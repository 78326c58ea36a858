"""A tiny base on disk that the tests here share and leave as it is."""

import pytest
from word_base import save_word_base


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    return save_word_base(tmp_path_factory.mktemp("bases") / "tiny")
