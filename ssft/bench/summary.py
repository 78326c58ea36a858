"""From the timed rounds of methods to the numbers of their results.

Speed-up is the median over the rounds of the baseline's seconds per token / the method's within the round
(`statistics.py`), the baseline being the plain method with the fewest seconds per token that ran. Where two texts are
the same, that is the ratio of seconds; a method does not gain by a text that differs and is shorter.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ssft.bench.identity import compare_outputs
from ssft.bench.methods import REFERENCE, YARDSTICK
from ssft.bench.rounds import Timed
from ssft.bench.statistics import bootstrap_interval, speedup
from ssft.decoding.request import Generation
from ssft.results.schema import CategoryResult, Difference, MethodResult


class Record:
    """What one method did in its rounds.

    seconds, prompt_seconds, tokens, prompt_tokens, calls, passes: arrays [R, U] over rounds and units; prompt_seconds
    last until the last row of a unit had its first pass, which gave prompt_tokens of the tokens. differences: by row
    the first difference from plain's text of the first round, in any round.
    """

    def __init__(self, method: Any, units: Sequence[Sequence[int]], timed: Timed) -> None:
        """`units`: the prompts of each unit, by number; `timed`: the outputs are the method's `Generation`s."""
        self.method, self.kind, self.units, self.rounds = method, method.KIND, units, timed.outputs
        self.differences: dict[int, Difference] = {}

        def array(count: Callable[[Sequence[Generation]], float]) -> np.ndarray:
            return np.array([[count(outputs) for outputs in done] for done in timed.outputs])

        self.seconds = np.array(timed.seconds)
        self.prompt_seconds = array(lambda own: max(output.prompt_seconds for output in own))
        self.tokens = array(lambda own: sum(len(output.token_ids) for output in own))
        self.prompt_tokens = array(lambda own: sum(min(o.prompt_tokens, len(o.token_ids)) for o in own))
        self.calls = array(lambda own: sum(output.calls for output in own))
        # The rows of a unit go through the model together, so the last one to end tells how often.
        self.passes = array(lambda own: max(output.calls for output in own))

    def ids(self, number: int) -> list[list[int]]:
        """Token ids of each prompt in a round."""
        found = {
            row: output.token_ids
            for unit, outputs in zip(self.units, self.rounds[number], strict=True)
            for row, output in zip(unit, outputs, strict=True)
        }
        return [list(found[row]) for row in range(len(found))]

    def find_differences(self, expected: Sequence[list[int]]) -> None:
        """Fill in the differences from plain's `ids`, without margins."""
        for number in range(len(self.rounds)):
            for difference in compare_outputs(expected, self.ids(number)):
                self.differences.setdefault(difference.row, difference)

    def seconds_per_token(self, columns: Sequence[int]) -> float:
        """Median over the rounds, of the units `columns`; infinite for a round without tokens."""
        seconds, tokens = (values[:, columns].sum(axis=1) for values in (self.seconds, self.tokens))
        return float(np.median(np.where(tokens > 0, seconds / np.maximum(tokens, 1), np.inf)))


def summarise(
    records: Mapping[str, Record], categories: Sequence[str] | None, seed: int
) -> tuple[dict[str, MethodResult], str]:
    """Results of all methods, which have the same rounds and units, and the name of the one that they are measured
    against.

    `categories`: of each row; `seed`: of the bootstrap. Within a category the baseline is the fastest plain method
    there, which need not be the one of the whole.
    """
    units = records[REFERENCE].units
    places: dict[str, list[int]] = {}
    for number, unit in enumerate(units if categories is not None else ()):
        places.setdefault((categories or ())[unit[0]], []).append(number)

    def fastest(columns: Sequence[int]) -> str:
        plain = [name for name, record in records.items() if record.kind == "plain"]
        return min(plain, key=lambda name: records[name].seconds_per_token(columns))

    baseline = fastest(range(len(units)))
    results = {name: _result(record, records[baseline], seed) for name, record in records.items()}
    for name, record in records.items():
        for category, columns in places.items() if record.kind != YARDSTICK else ():
            nearest = fastest(columns)
            results[name].categories[category] = CategoryResult(
                rows=sum(len(units[column]) for column in columns),
                baseline=nearest,
                identical=sum(row not in record.differences for column in columns for row in units[column]),
                **_counts(record, columns),
                **_speed(record, records[nearest], columns, seed),
            )
    return results, baseline


def _counts(record: Record, columns: Sequence[int]) -> dict[str, Any]:
    """Of the first round, and the median seconds, over some of the units."""
    tokens, calls = (int(values[0, columns].sum()) for values in (record.tokens, record.calls))
    return {
        "tokens": tokens,
        "calls": calls,
        "tokens_per_call": tokens / calls if calls else 0.0,
        "seconds": float(np.median(record.seconds[:, columns].sum(axis=1))),
    }


def _speed(record: Record, baseline: Record, columns: Sequence[int], seed: int) -> dict[str, Any]:
    """Speed-up and its interval over some of the units; None for a yardstick."""
    if record.kind == YARDSTICK:
        return {"speedup": None, "speedup_interval": None}
    times = baseline.seconds[:, columns], record.seconds[:, columns]
    tokens = baseline.tokens[:, columns], record.tokens[:, columns]
    return {
        "speedup": speedup(*times, tokens),
        "speedup_interval": bootstrap_interval(*times, seed, tokens=tokens),
    }


def _result(record: Record, baseline: Record, seed: int) -> MethodResult:
    """All but the categories and the memory."""
    everything = range(len(record.units))
    counts = _counts(record, everything)
    prompt_seconds = float(np.median(record.prompt_seconds.sum(axis=1)))
    totals = record.seconds.sum(axis=1)
    histograms = [output.accepted for outputs in record.rounds[0] for output in outputs]
    compared = record.kind != YARDSTICK
    return MethodResult(
        kind=record.kind,
        lossless=record.method.LOSSLESS,
        passes=int(record.passes[0].sum()),
        prompt_seconds=prompt_seconds,
        prompt_tokens=int(record.prompt_tokens[0].sum()),
        # Not the median of the differences, so that the two parts add up.
        decode_seconds=counts["seconds"] - prompt_seconds,
        seconds_per_round=totals.tolist(),
        tokens_per_second=float(np.median(record.tokens.sum(axis=1) / totals)),
        decode_speedup=_decode_speedup(baseline, record) if compared else None,
        identical=sum(map(len, record.units)) - len(record.differences) if compared else None,
        extra_parameters=record.method.extra_parameters,
        extra_bytes=record.method.extra_bytes,
        accepted=[sum(depth) for depth in zip_longest(*histograms, fillvalue=0)]
        if record.kind == "speculative"
        else [],
        differences=[record.differences[row] for row in sorted(record.differences)],
        training=dict(record.method.training),
        **counts,
        **_speed(record, baseline, everything, seed),
    )


def _decode_speedup(baseline: Record, record: Record) -> float | None:
    """`speedup` of what comes after the first passes; None where one of the two had all its tokens from them."""
    tokens = baseline.tokens - baseline.prompt_tokens, record.tokens - record.prompt_tokens
    if not all(counts.sum(axis=1).all() for counts in tokens):
        return None
    return speedup(baseline.seconds - baseline.prompt_seconds, record.seconds - record.prompt_seconds, tokens)
