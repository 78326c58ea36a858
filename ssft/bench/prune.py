"""`ssft bench prune`: how fast an adapter decodes by k, the tokens taken from each stream, with and without pruning.

The paper's figure (§3.2.3): the more tokens a tree takes from each stream, the more of its nodes are wrong, and the
more a pass costs; pruning drops those nodes in the middle of the pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from ssft.bench.methods import REFERENCE
from ssft.bench.rounds import Way, timed_rounds
from ssft.decoding.config import FIXED, TreeConfig
from ssft.errors import ConfigError
from ssft.runtime.batching import length_batches
from ssft.tables import Column, Table


@dataclass
class PruneResult:
    """One k, pruned or not. speedup: of the seconds of plain decoding over its own, median of the rounds. nodes,
    left: of a pass and row, when it begins and above the insertion layer. identical: prompts with plain's text."""

    top_k: int
    pruned: bool
    speedup: float
    tokens_per_call: float
    milliseconds_per_call: float
    nodes: float
    left: float
    identical: int


@dataclass
class PruneComparison:
    """prune_below, prune_keep: of the trees that were pruned; tree: all else of every tree. plain: its tokens/s."""

    tree: TreeConfig
    prune_below: float
    prune_keep: int
    rows: int
    rounds: int
    plain: float
    results: list[PruneResult]

    def points(self, pruned: bool) -> list[tuple[int, float]]:
        """(k, speed-up) with or without pruning."""
        return [(result.top_k, result.speedup) for result in self.results if result.pruned == pruned]


@dataclass
class _Count:
    """Rows that decoded in passes over trees, and their nodes before and behind the insertion layer."""

    rows: int = 0
    nodes: int = 0
    left: int = 0


def compare_pruning(
    adapted: Any,
    prompts: Sequence[list[int]],
    widths: Sequence[int],
    *,
    prune_below: float,
    prune_keep: int,
    max_new_tokens: int,
    batch_size: int = 1,
    rounds: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> PruneComparison:
    """Decode the prompts plainly, and for every k of `widths` with and without pruning, in paired rounds.

    The trees are the active adapter's own, of fixed size, with k in the place of its `top_k`.

    Raises:
        ConfigError: the adapter has no prune head, or nothing is to be pruned.
    """
    active = adapted.active
    if active.streams is None or not active.streams.config.prune_head_rank:
        raise ConfigError(
            f"{active.name!r} has no prune head; train one with `ssft train RECIPE method=prune_head adapter=FOLDER "
            "training.prune_head_rank=8`"
        )
    if not (prune_below or prune_keep):
        raise ConfigError("--prune-below 0 and --prune-keep 0 drop nothing; set one of them")
    own = replace(active.tree, budget=FIXED, prune_below=0.0, prune_keep=0)
    cut = {"prune_below": prune_below, "prune_keep": prune_keep}
    trees = {(k, pruned): replace(own, top_k=k, **(cut if pruned else {})) for k in widths for pruned in (False, True)}
    batches = [[prompts[i] for i in batch] for batch in length_batches([len(p) for p in prompts], batch_size)]
    counts = {key: _Count() for key in trees}

    def way(key: tuple[int, bool] | None) -> Way:
        def decode(batch: list[list[int]]) -> Any:
            before = active.tree
            active.tree = own if key is None else trees[key]
            try:
                with counting(adapted.step, _Count() if key is None else counts[key]):
                    return adapted.complete(batch, max_new_tokens=max_new_tokens, speculate=key is not None)
            finally:
                active.tree = before

        return Way(decode, batches, lambda: decode(batches[0]))

    ways = {REFERENCE: way(None), **{str(key): way(key) for key in trees}}
    timed = timed_rounds(ways, rounds, seed, progress)
    plain = [sum(seconds) for seconds in timed[REFERENCE].seconds]
    texts = [row.token_ids for batch in timed[REFERENCE].outputs[0] for row in batch]
    results = []
    for key, count in counts.items():
        found = timed[str(key)]
        outputs = [row for batch in found.outputs[0] for row in batch]
        seconds = [sum(units) for units in found.seconds]
        calls = sum(row.calls for row in outputs)
        results.append(
            PruneResult(
                *key,
                speedup=median(slow / fast for slow, fast in zip(plain, seconds, strict=True)),
                tokens_per_call=sum(len(row.token_ids) for row in outputs) / calls,
                milliseconds_per_call=1e3 * median(seconds) / calls,
                nodes=count.nodes / max(count.rows, 1),
                left=count.left / max(count.rows, 1),
                identical=sum(row.token_ids == ids for row, ids in zip(outputs, texts, strict=True)),
            )
        )
    tokens_per_second = sum(map(len, texts)) / median(plain)
    return PruneComparison(own, prune_below, prune_keep, len(prompts), rounds, tokens_per_second, results)


@contextmanager
def counting(step: Any, count: _Count) -> Iterator[None]:
    """Inside, passes over trees add to `count`."""
    real = step.trees

    def trees(rows: Any, sources: Any, cache: Any) -> Any:
        count.rows += len(rows)
        count.nodes += sum(len(row.tree) for row in rows)
        states = real(rows, sources, cache)
        count.left += sum(len(row.tree) for row in rows)
        return states

    step.trees = trees
    try:
        yield
    finally:
        del step.trees


# -- shown ------------------------------------------------------------------------------------------------------------


def prune_table(result: PruneComparison) -> Table:
    """One line for every k, with and without pruning."""
    columns: list[Any] = ["k", "pruned", Column("speed-up", ".2f", "×"), Column("tokens per call", ".2f")]
    columns += [Column("ms per call", ".1f"), Column("nodes", ".1f"), Column("left above", ".1f"), "same text"]
    rows = [
        [
            *(r.top_k, "yes" if r.pruned else "no", r.speedup, r.tokens_per_call, r.milliseconds_per_call),
            *(r.nodes, r.left, f"{r.identical} of {result.rows}"),
        ]
        for r in result.results
    ]
    return Table("Speed-up over plain decoding by k", columns, rows, keys=2)


def prune_sentence(result: PruneComparison) -> str:
    """Whether pruning pays, in words."""
    best = {pruned: max(result.points(pruned), key=lambda point: point[1]) for pruned in (False, True)}
    (k, speed), (pruned_k, pruned_speed) = best[False], best[True]
    verdict = "Pruning pays here" if pruned_speed > speed else "Pruning does not pay here"
    return (
        f"{verdict}: at its best k={pruned_k} decoding with it is {pruned_speed:.2f} times as fast as plain decoding, "
        f"without it at its best k={k} {speed:.2f} times."
    )
