"""Batches over many adapters: two ways of running the same rows on one `MultiAdapterModel`, compared within rounds.

A ratio is the speed of the second way over that of the first: 1 is no cost, 0.9 a tenth of the speed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssft.bench.identity import compare_outputs, top_margin
from ssft.bench.result import PASSES, TOKENS, BatchResult, Comparison, MixedResult, RowDifference
from ssft.bench.rounds import Timed, Way, timed_rounds
from ssft.bench.statistics import bootstrap_interval, round_ratios, speedup, spread
from ssft.runtime.batching import length_batches

ROWS = 8
"""Rows of a batch where batches are mixed."""
COPIES = 4

Batch = tuple[list[list[int]], list[str | None]]
"""Prompts, and the adapter of each."""


def compare(timed: Mapping[str, Timed], unit: str = TOKENS, same_rows: bool = True, seed: int = 0) -> Comparison:
    """The second of two ways against the first.

    `timed`: a unit's output is what `MultiAdapterModel.generate` returns of the batch's rows. `same_rows`: the texts,
    row by row, are meant to be the same.
    """
    texts = [[[row["token_ids"] for batch in done for row in batch] for done in way.outputs] for way in timed.values()]
    if unit == TOKENS:
        counts = [sum(map(len, rounds[0])) for rounds in texts]
    else:  # a batch lasts as long as its longest row
        counts = [sum(max(row["calls"] for row in batch) for batch in way.outputs[0]) for way in timed.values()]
    # Seconds per token or pass, [R, 1]: a text that differs and is shorter does not count as speed.
    baseline, other = (
        np.array(way.seconds).sum(axis=1, keepdims=True) / count
        for way, count in zip(timed.values(), counts, strict=True)
    )
    medians = [float(np.median(cost)) for cost in (baseline, other)]
    reference = texts[0][0]
    identical = sum(
        all(done[row] == ids for rounds in texts for done in rounds)
        for row, ids in enumerate(reference if same_rows else [])
    )
    return Comparison(
        rows=len(reference),
        unit=unit,
        values=dict(zip(timed, [1 / m if unit == TOKENS else m for m in medians], strict=True)),
        ratio=speedup(baseline, other),
        interval=bootstrap_interval(baseline, other, seed, least_units=1),
        spread=spread(round_ratios(baseline, other)),
        identical=identical if same_rows else None,
    )


class BatchRunner:
    """Runs and times batches on one model."""

    def __init__(self, model: Any, max_new_tokens: int, rounds: int, seed: int = 0, progress: bool = True) -> None:
        """`rounds`: of every comparison, at least one. `seed`: order within the rounds, and the bootstrap."""
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.rounds, self.seed, self.progress = rounds, seed, progress

    def run(self, batch: Batch, **settings: Any) -> list[dict[str, Any]]:
        """What the model generates for each row."""
        settings = {"max_new_tokens": self.max_new_tokens, "return_dict": True, **settings}
        # The token ids that come back have been copied from the device: nothing is left in its queue.
        results: list[dict[str, Any]] = self.model.generate(batch[0], adapter=batch[1], **settings)
        return results

    def way(self, batches: Sequence[Batch], **settings: Any) -> Way:
        """The batches one after another."""
        return Way(lambda batch: self.run(batch, **settings), batches)

    def time(self, ways: Mapping[str, Way]) -> dict[str, Timed]:
        """Every way in every round."""
        return timed_rounds(ways, self.rounds, self.seed, self.progress)

    def compare(
        self, ways: Mapping[str, Sequence[Batch]], unit: str = TOKENS, same_rows: bool = True, **settings: Any
    ) -> Comparison:
        """Time two ways, the baseline first, and compare them."""
        timed = self.time({name: self.way(batches, **settings) for name, batches in ways.items()})
        return compare(timed, unit, same_rows, self.seed)

    def differences(self, batches: Sequence[Batch], numbers: Sequence[int]) -> list[RowDifference]:
        """Rows of the batches that differ from the row alone, decoded without speculation.

        `numbers`: what to call each row. Margins are those of the row's own adapter, see `Difference`.
        """
        got = [row["token_ids"] for batch in batches for row in self.run(batch)]
        rows = [row for batch in batches for row in zip(*batch, strict=True)]
        bar = tqdm(rows, unit="row", delay=2, disable=None if self.progress else True, leave=False)
        alone = [self.run(([prompt], [name]), speculate=False)[0]["token_ids"] for prompt, name in bar]
        found = []
        for place in compare_outputs(alone, got):
            prompt, name = rows[place.row]
            common = [*prompt, *alone[place.row][: place.position]]
            margin = None if place.expected is None else self.margin(name, common)
            number = numbers[place.row]
            found.append(RowDifference(number, place.position, place.expected, place.got, margin, name))
        return found

    def margin(self, name: str | None, ids: list[int]) -> float:
        """`top_margin` with an adapter's LoRA; None: of the bare base."""
        with self.model.applied(adapter=name):
            return top_margin(self.model.hooks.backbone, ids)


def measure_mixed(
    runner: BatchRunner, paths: Mapping[str, Path], rows: Mapping[str, Sequence[list[int]]]
) -> MixedResult:
    """See `MixedResult`; `rows`: name -> prompts that fill batches of `ROWS`."""
    first = next(iter(paths))
    own, count = rows[first], len(rows[first])
    copies = {f"{first}#{number}": paths[first] for number in range(COPIES)}
    one = in_batches(own, [first] * count)
    with loaded(runner.model, {first: paths[first], **copies}):
        four = in_batches(own, list(islice(cycle(copies), count)))
        routing = runner.compare({"one adapter": one, "four copies": four})
        bare = in_batches(own, [None] * count)
        low_rank = runner.compare(
            {"bare base": bare, "one adapter": one}, PASSES, same_rows=False, speculate=False, ignore_eos=True
        )
    with loaded(runner.model, paths):
        # The next prompt of the next adapter, and so on: the rows of the batches of one adapter, in another order.
        longest = max(map(len, rows.values()))
        order = [(name, number) for number in range(longest) for name in paths if number < len(rows[name])]
        mixed = in_batches([rows[name][number] for name, number in order], [name for name, _ in order])
        tasks = None
        if len(paths) > 1:
            apart = [batch for name in paths for batch in in_batches(rows[name], [name] * len(rows[name]))]
            tasks = runner.compare({"one task per batch": apart, "mixed": mixed}, same_rows=False)
        differences = runner.differences(mixed, [number for _, number in order])
    return MixedResult(routing, low_rank, tasks, len(order), len(order) - len(differences), differences)


def measure_batches(runner: BatchRunner, name: str, prompts: Sequence[list[int]], size: int) -> BatchResult:
    """Plain decoding against streaming with the loaded adapter `name`; prompts of like length stand together."""
    units = length_batches([len(prompt) for prompt in prompts], size)
    batches: list[Batch] = [([prompts[row] for row in unit], [name] * len(unit)) for unit in units]
    timed = runner.time({"plain": runner.way(batches, speculate=False), "streaming": runner.way(batches)})
    streamed = [row for batch in timed["streaming"].outputs[0] for row in batch]
    tokens, calls = sum(len(row["token_ids"]) for row in streamed), sum(row["calls"] for row in streamed)
    return BatchResult(size, tokens / calls, compare(timed, seed=runner.seed))


def filled(prompts: Sequence[list[int]]) -> list[list[int]]:
    """The prompts, repeated from the first until they fill batches of `ROWS`."""
    return list(islice(cycle(prompts), -(-len(prompts) // ROWS) * ROWS))


def in_batches(prompts: Sequence[list[int]], names: Sequence[str | None]) -> list[Batch]:
    """Batches of `ROWS`, in the given order."""
    starts = range(0, len(prompts), ROWS)
    return [(list(prompts[start : start + ROWS]), list(names[start : start + ROWS])) for start in starts]


@contextmanager
def loaded(model: Any, paths: Mapping[str, Path]) -> Iterator[None]:
    """These adapters, name -> folder, are loaded inside."""
    names: list[str] = []
    try:
        for name, path in paths.items():
            names.append(model.load_adapter(path, name))
        yield
    finally:
        for name in names:
            model.delete_adapter(name)
