"""The embedded base, for tests that decode with it where it was fetched."""

import pytest

from ssft.bases import is_fetched

BASE = "smollm2-135m"
needs_base = pytest.mark.skipif(not is_fetched(BASE), reason=f"base {BASE} is not fetched (`ssft bases fetch {BASE}`)")
