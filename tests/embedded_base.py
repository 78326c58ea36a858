"""The embedded base, for tests that decode with it where it was fetched."""

import pytest

from ssft.base.embedded import is_fetched

BASE = "smollm2-135m"
# It is a download of 98 MB, and no test may need the network: they run wherever it lies in the cache (`make demo`).
needs_base = pytest.mark.skipif(not is_fetched(BASE), reason=f"base {BASE} is not fetched (`ssft bases fetch {BASE}`)")
