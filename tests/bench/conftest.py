"""The tiny adapted model and the quick compiler that several tests of the comparison need."""

import pytest
from fake_adapted import fake_adapted

from ssft.bench.methods import generate_static


@pytest.fixture(scope="module")
def adapted():
    return fake_adapted()


@pytest.fixture(scope="module")
def quick_compiler():
    """Traced as always, but not handed to a C++ compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_static, "BACKEND", "eager")
        yield
