"""The embedded base, for tests that decode with it.

It is a download of 98 MB, and no test may need the network: a plain `pytest` skips them where it is not fetched.
`make test` fetches it first and sets SSFT_REQUIRE_BASE=1, so that there a missing base is an error.
"""

import os

import pytest

from ssft.base.embedded import is_fetched

BASE = "smollm2-135m"
REQUIRE = "SSFT_REQUIRE_BASE"
needs_base = pytest.mark.usefixtures("embedded_base")


def check_base():
    """Skip the test, or let it fail, if the base is not in the cache."""
    if is_fetched(BASE):
        return
    reason = f"base {BASE} is not fetched (`ssft bases fetch {BASE}`)"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{reason}, and {REQUIRE}=1 requires it", pytrace=False)
    pytest.skip(reason)
