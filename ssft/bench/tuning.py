"""What every budget of nodes and streams would give on some prompts: one recording, replayed by the measured costs.

The recording decodes the prompts with streams beside every token and no draft, so that it knows what would be guessed
wherever verification might stop. `replay` then counts the passes of any budget exactly; their time is the cost table's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ssft.decoding.budget.cost import CostTable
from ssft.decoding.budget.replay import Replay, Trace, replay
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import AUTO, FIXED, TreeConfig
from ssft.decoding.draft.drafter import Guesses, Stop
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.request import Generation, Request
from ssft.errors import ConfigError
from ssft.runtime.batching import length_batches
from ssft.streams.modules import StreamModules
from ssft.tables import Column, Table

if TYPE_CHECKING:
    from ssft.decoding.step import States, Step
    from ssft.runtime.model import MultiAdapterModel

NODES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
SOURCES = (1, 2, 3, 4, 6, 8, 16, 32)
"""Fixed budgets that are tried, within the tree's own limits."""
SHAPES = 6
"""Shapes of passes that are shown of the tuned budget."""


class Recorder(StreamDrafter):
    """Streams that note what they guessed, and when."""

    def __init__(self, streams: StreamModules) -> None:
        super().__init__(streams)
        self.notes: list[tuple[Generation, int, Guesses]] = []

    @property
    def group(self) -> object:
        """Its rows are its own."""
        return self

    def propose(self, stops: Sequence[Stop], states: "States", step: "Step") -> list[Guesses | None]:
        """As the streams do."""
        found = super().propose(stops, states, step)
        for stop, guesses in zip(stops, found, strict=True):
            if guesses is not None:
                self.notes.append((stop.row.result, len(stop.row.result.token_ids), guesses))
        return found


@dataclass
class BudgetResult:
    """What a budget gives. nodes, sources: of every row, 0 where the budget chooses. tokens_per_pass: of all rows of a
    batch; speedup: over plain decoding; shapes: [[nodes, stream nodes, share of the passes]], the most frequent first.
    The prompts' passes are left out."""

    nodes: int
    sources: int
    passes: int
    tokens_per_pass: float
    milliseconds_per_pass: float
    tokens_per_second: float
    speedup: float
    shapes: list[tuple[int, int, float]]


@dataclass
class TuningResult:
    """costs: by the number of rows. plain: tokens per second. fixed: all that were tried; tuned: `budget=auto`."""

    tree: TreeConfig
    costs: dict[int, CostTable]
    tokens: int
    plain: float
    fixed: list[BudgetResult]
    tuned: BudgetResult

    @property
    def best(self) -> BudgetResult:
        """The fastest fixed budget."""
        return max(self.fixed, key=lambda budget: budget.tokens_per_second)


def tune(
    adapted: "MultiAdapterModel",
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int = 1,
    progress: bool = True,
) -> TuningResult:
    """Measure the costs anew, record the prompts' answers, and replay them under fixed budgets and the tuned one."""
    costs = adapted.measure_costs(batch_size, again=True)
    traces = record(adapted, prompts, max_new_tokens, batch_size, progress)
    lengths = [len(prompt) for prompt in prompts]
    batches = [[traces[place] for place in batch] for batch in length_batches(lengths, batch_size)]
    tree = adapted.active.tree
    plain = replay(batches, None, TunedBudget(adapted.costs))
    if not plain.tokens:
        raise ConfigError("no answer has more than one token, so that nothing is drafted; give other prompts")

    def tried(own: TreeConfig) -> Replay:
        return replay(batches, own, TunedBudget(adapted.costs))

    fixed = [
        _result(nodes, most, tried(replace(tree, max_nodes=nodes, max_stream_nodes=most, budget=FIXED)), plain)
        for nodes in NODES
        for most in SOURCES
        if nodes <= max(tree.max_nodes, 2) and most <= min(nodes, tree.max_stream_nodes or nodes)
    ]
    tuned = _result(0, 0, tried(replace(tree, budget=AUTO)), plain)
    return TuningResult(tree, costs, plain.tokens, plain.tokens_per_second, fixed, tuned)


def record(
    adapted: "MultiAdapterModel", prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int, progress: bool
) -> list[Trace]:
    """Answers to the prompts with what the streams guess after each of their tokens."""
    active = adapted.active
    assert active.streams is not None
    recorder, own = Recorder(active.streams), active.tree
    active.tree = replace(own, max_nodes=1, max_stream_nodes=0, budget=FIXED)
    try:
        how: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "drafter": recorder}
        results = adapted.complete(prompts, max_new_tokens=max_new_tokens, **how)
    finally:
        active.tree = own
    guesses = {(id(result), place): guessed for result, place, guessed in recorder.notes}
    return [
        Trace(
            Request(prompt, max_new_tokens, active.drafter, own, active.lora),
            result.token_ids,
            [guesses.get((id(result), place)) for place in range(1, len(result.token_ids) + 1)],
        )
        for prompt, result in zip(prompts, results, strict=True)
    ]


def _result(nodes: int, sources: int, found: Replay, plain: Replay) -> BudgetResult:
    return BudgetResult(
        nodes=nodes,
        sources=sources,
        passes=found.passes,
        tokens_per_pass=found.tokens / found.passes,
        milliseconds_per_pass=found.milliseconds / found.passes,
        tokens_per_second=found.tokens_per_second,
        speedup=found.tokens_per_second / plain.tokens_per_second,
        shapes=[(n, m, times / found.passes) for (n, m), times in found.shapes.most_common(SHAPES)],
    )


# -- shown ------------------------------------------------------------------------------------------------------------


def tuning_tables(result: TuningResult) -> list[Table]:
    """Costs, speeds of fixed budgets, and what the tuned budget chose."""
    tables = []
    for rows, costs in result.costs.items():
        titles = [Column(f"{m} with streams" if m else "no streams", ".1f") for m in costs.sources]
        cells = [[nodes, *line] for nodes, line in zip(costs.nodes, costs.milliseconds, strict=True)]
        tables.append(Table(f"Cost of a pass over {rows} row{'s' * (rows > 1)}, ms", ["nodes", *titles], cells))
    by_shape = {(budget.nodes, budget.sources): budget.tokens_per_second for budget in result.fixed}
    nodes, sources = (list(dict.fromkeys(values)) for values in zip(*sorted(by_shape), strict=True))
    sources = sorted(sources)
    tables.append(
        Table(
            "Expected tokens per second of fixed budgets",
            ["nodes", *(Column(f"{m} with streams", ".1f") for m in sources)],
            [[n, *(by_shape.get((n, m)) for m in sources)] for n in nodes],
            marks={nodes.index(result.best.nodes): "best"},
        )
    )
    shapes = [[n, m, share] for n, m, share in result.tuned.shapes]
    tables.append(Table("Passes of budget=auto", ["nodes", "with streams", Column("share", ".0%")], shapes))
    return tables


def tuning_sentence(result: TuningResult) -> str:
    """Plain decoding, the best fixed budget and the tuned one in words."""
    best, tuned = result.best, result.tuned
    return (
        f"Plain decoding: {result.plain:.1f} expected tokens/s. The best fixed tree (max_nodes={best.nodes}, "
        f"max_stream_nodes={best.sources}): {best.tokens_per_second:.1f}, {best.speedup:.2f} × plain. budget=auto: "
        f"{tuned.tokens_per_second:.1f}, {tuned.speedup:.2f} × plain, {tuned.tokens_per_pass:.2f} tokens in a pass of "
        f"{tuned.milliseconds_per_pass:.1f} ms."
    )
