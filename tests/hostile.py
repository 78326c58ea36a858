"""Adapter folders that are damaged or mean harm: every variant spoils a good bundle, beside the error that names it.

The good bundle is `shelf.SHELF["projected"]`: γ = 2, N_s = 2, rank 6 on all linear layers of the tiny Llama, η = 3.
"""

from hostile_files import BAD_FILES, BAD_JSON
from hostile_settings import BAD_LORA, BAD_SETTINGS
from hostile_tensors import BAD_SIZES, BAD_TENSORS, BAD_VOCABULARIES

_ALL = (BAD_FILES, BAD_JSON, BAD_SETTINGS, BAD_LORA, BAD_TENSORS, BAD_VOCABULARIES, BAD_SIZES)
VARIANTS = {name: variant for variants in _ALL for name, variant in variants.items()}
"""name: (function that spoils a folder, expression that the error matches)."""

assert len(VARIANTS) == sum(map(len, _ALL)), "a name stands twice"
