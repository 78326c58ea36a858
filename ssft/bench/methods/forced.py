"""Drafts of what a grammar forces, without the adapter's streams."""

from typing import Any

from ssft.bench.methods import Setting, plain
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.sampling import Sampling
from ssft.errors import ConfigError


class Method(plain.Method):
    """Where one token alone may come, it is drafted."""

    DESCRIPTION = "drafts of the tokens that a grammar forces, without streams"
    KIND = "speculative"
    drafting: dict[str, Any] = {"drafter": ForcedDrafter()}  # noqa: RUF012 (never changed)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        if Sampling(**setting.sampling).form is None:
            raise ConfigError(
                f"{self.name} is about texts of a form; give --json-schema, --regex or --grammar, or leave {self.name} "
                "out of --methods"
            )
