"""Two ways of running the same rows on one `MultiAdapterModel`, compared within rounds.

Every way runs once as a warm-up that does not count, then once per round, in random order. A ratio is the speed of the
second way over that of the first: 1 is no cost, 0.9 a tenth of the speed.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from tqdm import tqdm

from ssft.bench.identity import first_difference, top_margin
from ssft.bench.result import TOKENS, Comparison, RowDifference
from ssft.bench.statistics import bootstrap_interval, round_ratios, speedup, spread

Batch = tuple[list[list[int]], list[str | None]]
"""Prompts, and the adapter of each."""
Outputs = list[list[dict[str, Any]]]
"""[batch][row] what `MultiAdapterModel.generate` returns of a row."""
Way = Callable[[], Outputs]


@dataclass
class Timed:
    """One way, round by round: seconds [R] and outputs [R]; the counts are one round's."""

    seconds: list[float] = field(default_factory=list)
    outputs: list[Outputs] = field(default_factory=list)

    def ids(self, number: int = 0) -> list[list[int]]:
        """Token ids of every row in round `number`."""
        return [row["token_ids"] for batch in self.outputs[number] for row in batch]

    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.ids()))

    def calls(self) -> int:
        """Calls of all rows; two rows in one pass are two."""
        return sum(row["calls"] for batch in self.outputs[0] for row in batch)

    def passes(self) -> int:
        """Passes of the model: a batch lasts as long as its longest row."""
        return sum(max(row["calls"] for row in batch) for batch in self.outputs[0])


def compare(timed: Mapping[str, Timed], unit: str = TOKENS, same_rows: bool = True, seed: int = 0) -> Comparison:
    """The second of two ways against the first; `same_rows`: their texts, row by row, are meant to be the same."""
    ways = list(timed.values())
    counts = [way.tokens() if unit == TOKENS else way.passes() for way in ways]
    # Seconds per token or pass, [R, 1]: a text that differs and is shorter does not count as speed.
    baseline, other = (np.array(way.seconds)[:, None] / count for way, count in zip(ways, counts, strict=True))
    medians = [float(np.median(cost)) for cost in (baseline, other)]
    reference = ways[0].ids()
    identical = sum(
        all(way.ids(number)[row] == ids for way in ways for number in range(len(way.outputs)))
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


class PairedRunner:
    """Runs and times batches on one model."""

    def __init__(self, model: Any, max_new_tokens: int, rounds: int, seed: int = 0, progress: bool = True) -> None:
        """`rounds`: of every comparison, at least one. `seed`: order within the rounds, and the bootstrap."""
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.rounds = rounds
        self.seed = seed
        self.progress = progress
        self._order = random.Random(seed)

    def way(self, batches: Sequence[Batch], **settings: Any) -> Way:
        """A function that runs the batches one after another."""
        settings = {"max_new_tokens": self.max_new_tokens, "return_dict": True, **settings}
        return lambda: [self.model.generate(prompts, adapter=names, **settings) for prompts, names in batches]

    def time(self, ways: Mapping[str, Way]) -> dict[str, Timed]:
        """Seconds and outputs of every way in every round."""
        timed = {name: Timed() for name in ways}
        with self._bar((1 + self.rounds) * len(ways), "run") as bar:
            for way in ways.values():
                way()
                bar.update()
            for _ in range(self.rounds):
                for name in self._order.sample(list(ways), len(ways)):
                    begin = time.perf_counter()
                    # The token ids that come back have been copied from the device: nothing is left in its queue.
                    outputs = ways[name]()
                    timed[name].seconds.append(time.perf_counter() - begin)
                    timed[name].outputs.append(outputs)
                    bar.update()
        return timed

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
        results = [row for batch in self.way(batches)() for row in batch]
        rows = [row for prompts, names in batches for row in zip(prompts, names, strict=True)]
        found = []
        with self._bar(len(rows), "row") as bar:
            for (prompt, name), number, result in zip(rows, numbers, results, strict=True):
                ((alone,),) = self.way([([prompt], [name])], speculate=False)()
                expected, got = alone["token_ids"], result["token_ids"]
                place = first_difference(expected, got)
                if place is not None:
                    tokens = [ids[place] if place < len(ids) else None for ids in (expected, got)]
                    margin = None if tokens[0] is None else self._margin(name, [*prompt, *expected[:place]])
                    found.append(RowDifference(number, place, tokens[0], tokens[1], margin, name))
                bar.update()
        return found

    def _margin(self, name: str | None, ids: list[int]) -> float:
        model = self.model
        with model.bank.in_use([] if name is None else [name]) as held:
            lora = None if name is None else held[name].lora
            applied = SimpleNamespace(model=model.model, hooks=model.hooks, applied=lambda: model.router.use([lora]))
            return top_margin(applied, ids)

    def _bar(self, total: int, unit: str) -> Any:
        return tqdm(total=total, unit=unit, delay=2, disable=None if self.progress else True, leave=False)
