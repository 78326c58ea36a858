"""`Row`: one sequence on its way from a request to its text."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssft.decoding.request import Generation, Request
from ssft.decoding.tree import DraftTree

if TYPE_CHECKING:
    from ssft.decoding.draft.drafter import Guesses
    from ssft.decoding.draft.lookup import Lookup
    from ssft.decoding.grammar.parser import Parser


@dataclass(eq=False)
class Row:
    """One sequence: what it asks for, its draft for the next pass, and what it has become so far.

    budget: tokens that it may produce. tree: the draft that its next pass verifies; a root alone drafts nothing.
    guesses: what may follow the token issued last, from which the budget grows that draft; None where nothing is known.
    parser: where the text stands in the request's grammar, if it has one. lookup: what came earlier in the row, if that
    is drafted again.
    begin: when it was admitted, on `time.perf_counter`. of_drafter: what its drafter keeps of it from pass to pass.
    """

    request: Request
    budget: int
    tree: DraftTree
    result: Generation = field(default_factory=Generation)
    begin: float = field(default_factory=time.perf_counter)
    of_drafter: Any = field(default=None, repr=False)
    guesses: "Guesses | None" = None
    parser: "Parser | None" = None
    lookup: "Lookup | None" = field(default=None, repr=False)

    @property
    def left(self) -> int:
        """Tokens that the row may still produce."""
        return self.budget - len(self.result.token_ids)

    @property
    def history(self) -> list[int]:
        """Token ids so far, the prompt's first; the last is the root of the tree."""
        return self.request.prompt + self.result.token_ids

    @property
    def finished(self) -> bool:
        """Whether the row's text is whole, or given up."""
        return bool(self.result.finish_reason)

    def extend(self, path: list[int], token: int) -> None:
        """Append the accepted nodes of the tree and the issued token, up to the first at which the row ends."""
        result = self.result
        result.calls += 1
        if result.calls == 1:
            result.prompt_seconds = time.perf_counter() - self.begin
        else:
            depth = len(path) - 1
            result.accepted += [0] * (depth + 1 - len(result.accepted))
            result.accepted[depth] += 1
        came = [*(self.tree.tokens[node] for node in path[1:]), token]
        for new in came:
            result.token_ids.append(new)
            if self.lookup is not None:
                self.lookup.advance(new)
            if reason := self._reason_to_stop(new):
                self.finish(reason)
                return
        if self.parser is not None:
            self.parser.advance(came)

    def finish(self, reason: str) -> None:
        """End the row."""
        self.result.finish_reason, self.result.seconds = reason, time.perf_counter() - self.begin

    def _reason_to_stop(self, token: int) -> str:
        """Why `token`, just appended to the result, is the last; empty if it is not."""
        request, produced = self.request, self.result.token_ids
        if token in request.eos_token_ids:
            return "eos"
        if token in request.stop_token_ids or (request.stop is not None and request.stop(produced)):
            return "stop"
        return "length" if len(produced) >= self.budget else ""
