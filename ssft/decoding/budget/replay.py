"""`replay`: what texts would cost under any budget, by one recording of them and of the guesses after each token.

Greedy texts are the same under every budget, and so are the guesses after a token. So passes need not be run again: the
budget plans them, the text says how far each tree is right, and the cost table says how long the pass takes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ssft.decoding.accept.greedy import accept_greedy
from ssft.decoding.budget.tuned import Costs, TunedBudget
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree

NO_TOKEN = -1
"""Follows a text's last token."""


@dataclass
class Trace:
    """A request, the tokens that it became, and the guesses after each of them: guesses[i] after tokens[i]."""

    request: Request
    tokens: list[int]
    guesses: list[Guesses | None]


@dataclass
class Replay:
    """Tokens after each text's first, what passes and milliseconds they take, passes by shape (nodes, stream nodes)."""

    tokens: int = 0
    passes: int = 0
    milliseconds: float = 0.0
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def tokens_per_second(self) -> float:
        """Of decoding, the prompts' passes left out; 0 where there is nothing to decode."""
        return 1e3 * self.tokens / self.milliseconds if self.milliseconds else 0.0


def replay(
    batches: Sequence[Sequence[Trace]], tree: TreeConfig | None, budget: TunedBudget, costs: Costs | None = None
) -> Replay:
    """Decode batches of traces with `tree`, None: plainly, as `Scheduler` would; `budget` plans and knows the costs.

    costs: what passes really take, where that is something else; `budget` hears of it as of the time of real passes.
    """
    found, costs = Replay(), costs or budget.costs
    for batch in batches:
        rows = {_begun(trace, tree, budget): trace for trace in batch if len(trace.tokens) > 1}
        while rows:
            now = list(rows)
            sources = [[] for _ in now] if tree is None else budget.plan(now)
            nodes, most = max(len(row.tree) for row in now), len(sources[0])
            found.passes += 1
            milliseconds = float(costs.of(now).table(nodes, most)[nodes - 1, most])
            if tree is not None:
                budget.took(milliseconds)
            found.milliseconds += milliseconds
            found.shapes[nodes, most] += 1
            for row, carrying in zip(now, sources, strict=True):
                before = len(row.result.token_ids)
                _advance(row, carrying, rows[row])
                budget.learn(row)
                found.tokens += len(row.result.token_ids) - before
                if row.finished:
                    del rows[row]
    return found


def _begun(trace: Trace, tree: TreeConfig | None, budget: TunedBudget) -> Row:
    """The row after its prompt's pass."""
    whole = len(trace.tokens)
    request = replace(trace.request, tree=tree or trace.request.tree, stop=lambda produced: len(produced) >= whole)
    row = Row(request, request.max_new_tokens, DraftTree(trace.tokens[:1]))
    row.result.token_ids, row.guesses = trace.tokens[:1], trace.guesses[0]
    if (lookup := budget.lookup(row)) is not None:
        lookup.advance(trace.tokens[0])
        row.lookup = lookup
    return row


def _advance(row: Row, sources: list[int], trace: Trace) -> None:
    """One pass of the row: verify its tree against the text."""
    place = len(row.result.token_ids) - 1
    after = trace.tokens[place + 1 :]
    path, issued = accept_greedy(row.tree, lambda path: after[len(path) - 1] if len(path) <= len(after) else NO_TOKEN)
    row.extend(path, issued)
    known = path[-1] in sources or row.request.streams is None
    row.tree = DraftTree([issued])
    row.guesses = trace.guesses[len(row.result.token_ids) - 1] if known and not row.finished else None
