"""Speculative streaming under a grammar that has no say in the drafts."""

import copy
from typing import Any

from ssft.bench.methods import Setting, forced, streaming


class Method(streaming.Method, forced.Method):
    """The text keeps to the grammar; the streams guess as if there were none."""

    DESCRIPTION = "streams that draft as if there were no grammar; only the text keeps to it"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        drafter = copy.copy(self.adapted.active.drafter)
        drafter.reads_grammar = False
        self.drafting: dict[str, Any] = {"drafter": drafter}
