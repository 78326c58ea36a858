"""Batches over many adapters: two ways of running the same rows on one `MultiAdapterModel`, compared within rounds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from ssft.bench.identity import add_margins, compare_outputs
from ssft.bench.rounds import Timed, Way, timed_rounds
from ssft.bench.statistics import bootstrap_interval, speedup
from ssft.results.schema import AdaptersResult, Comparison
from ssft.runtime.batching import length_batches

ROWS = 8
"""Rows of a batch where adapters are mixed."""
COPIES = 4
SIZES = (1, 2, 4, 8)
"""Rows of a batch of one adapter."""

Batch = list[tuple[str, list[int]]]
"""Rows: adapter and prompt."""


def measure_batches(
    model: Any,
    paths: Mapping[str, Path],
    rows: Mapping[str, Sequence[list[int]]],
    result: AdaptersResult,
    progress: bool = True,
) -> None:
    """Comparisons one after another, and the rows of mixed batches that differ, into the result, which says how many
    rounds and tokens. `rows`: name -> prompts that fill batches of `ROWS`."""

    def run(batch: Batch, speculate: bool = True) -> list[dict[str, Any]]:
        names, prompts = zip(*batch, strict=True)
        settings = {"max_new_tokens": result.max_new_tokens, "return_dict": True, "speculate": speculate}
        # The token ids that come back have been copied from the device: nothing is left in its queue.
        found: list[dict[str, Any]] = model.generate(list(prompts), adapter=list(names), **settings)
        return found

    def plainly(batch: Batch) -> list[dict[str, Any]]:
        return run(batch, speculate=False)

    def comparison(title: str, ways: Mapping[str, Sequence[Batch]], same_rows: bool = True) -> None:
        """Time two ways, the baseline first; the one that is called "plain" does not speculate."""
        timers = {name: Way(plainly if name == "plain" else run, batches) for name, batches in ways.items()}
        timed = timed_rounds(timers, result.rounds, result.seed, progress)
        result.comparisons.append(compare(title, timed, same_rows, result.seed))

    first, *others = paths
    own = [(first, prompt) for prompt in rows[first]]
    copies = {f"{first}#{number}": paths[first] for number in range(COPIES)}
    with loaded(model, {first: paths[first], **copies}):
        # Copies have tensors of their own: what is left is the cost of telling rows apart.
        four = list(zip(cycle(copies), rows[first], strict=False))  # the names never end
        comparison("mixed copies", {"one adapter": in_batches(own), "four copies": in_batches(four)})
    with loaded(model, paths):
        # The next prompt of the next adapter, and so on: the rows of the batches of one adapter, in another order.
        longest = max(map(len, rows.values()))
        order = [(name, rows[name][at]) for at in range(longest) for name in paths if at < len(rows[name])]
        if others:
            apart = [batch for name in paths for batch in in_batches([(name, prompt) for prompt in rows[name]])]
            comparison("mixed tasks", {"apart": apart, "mixed": in_batches(order)}, same_rows=False)
        mixed = [row["token_ids"] for batch in in_batches(order) for row in run(batch)]
        for name in paths:
            got = [ids for (owner, _), ids in zip(order, mixed, strict=True) if owner == name]
            alone = [plainly([(name, prompt)])[0]["token_ids"] for prompt in rows[name]]
            result.differences[name] = compare_outputs(alone, got)
            model.set_adapter(name)  # whose margins they are
            add_margins(model, rows[name], alone, result.differences[name])
        result.mixed_rows = len(order)
        for size in SIZES:
            batches = [[own[row] for row in unit] for unit in length_batches([len(row[1]) for row in own], size)]
            comparison(f"batches of {size}", {"plain": batches, "streaming": batches})


def compare(title: str, timed: Mapping[str, Timed], same_rows: bool = True, seed: int = 0) -> Comparison:
    """The second of two ways against the first.

    `timed`: a unit's output is what `MultiAdapterModel.generate` returns of the batch's rows. `same_rows`: the texts,
    row by row, are meant to be the same.
    """
    rows = [[[row for batch in done for row in batch] for done in way.outputs] for way in timed.values()]
    texts = [[[row["token_ids"] for row in done] for done in rounds] for rounds in rows]
    # Seconds per token, [R, 1]: a text that differs and is shorter does not count as speed.
    baseline, other = (
        np.array(way.seconds).sum(axis=1, keepdims=True) / sum(map(len, rounds[0]))
        for way, rounds in zip(timed.values(), texts, strict=True)
    )
    reference = texts[0][0]
    identical = sum(all(done[row] == ids for rounds in texts for done in rounds) for row, ids in enumerate(reference))
    costs = zip(timed, (baseline, other), strict=True)
    return Comparison(
        title=title,
        rows=len(reference),
        tokens_per_second={name: 1 / float(np.median(cost)) for name, cost in costs},
        tokens_per_call=sum(map(len, texts[1][0])) / sum(row["calls"] for row in rows[1][0]),
        ratio=speedup(baseline, other),
        interval=bootstrap_interval(baseline, other, seed, least_units=1),
        identical=identical if same_rows else None,
    )


def filled(prompts: Sequence[list[int]]) -> list[list[int]]:
    """The prompts, repeated from the first until they fill batches of `ROWS`."""
    return list(islice(cycle(prompts), -(-len(prompts) // ROWS) * ROWS))


def in_batches(rows: Batch) -> list[Batch]:
    """Batches of `ROWS`, in the given order."""
    return [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]


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
