"""The frozen model: which bases there are, loading one, its fingerprint, its chat template, and its parts by name."""
