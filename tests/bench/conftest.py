"""The tiny adapted model that several tests of the comparison measure."""

import pytest
from fake_adapted import fake_adapted


@pytest.fixture(scope="module")
def adapted():
    return fake_adapted()
