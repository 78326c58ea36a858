"""From the timed rounds of methods to the numbers of their results.

Speed-up is the median over the rounds of the baseline's seconds per token / the method's within the round
(`statistics.py`), the baseline being the plain method with the fewest seconds per token that ran. Where two texts are
the same, that is the ratio of seconds; a method does not gain by a text that differs and is shorter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssft.bench.identity import compare_outputs
from ssft.bench.methods import KINDS, REFERENCE, method_module, method_names
from ssft.bench.result import CategoryResult, Difference, MethodResult
from ssft.bench.rounds import Timed
from ssft.bench.statistics import add_histograms, bootstrap_interval, round_ratios, speedup, spread
from ssft.decoding.request import Generation
from ssft.errors import ConfigError

YARDSTICK = "yardstick"
COMPARED = ("speedup", "speedup_interval", "speedup_mean", "speedup_spread", "decode_speedup", "identical")
"""Fields of a `MethodResult` that a yardstick does not have."""


def traits(name: str, method: Any) -> tuple[str, bool]:
    """KIND and LOSSLESS of a method: attributes of the object, else of the module of its name."""
    module = method_module(name) if name in method_names() else None
    kind, lossless = (getattr(method, trait, getattr(module, trait, None)) for trait in ("KIND", "LOSSLESS"))
    if kind not in KINDS or lossless is None:
        raise ConfigError(
            f"method {name!r} has KIND={kind!r} and LOSSLESS={lossless!r}; its class or module must say both, KIND "
            f"being one of {', '.join(KINDS)}"
        )
    return kind, lossless


class Record:
    """What one method did in its rounds.

    seconds, prompt_seconds, tokens, prompt_tokens, calls, passes: arrays [R, U] over rounds and units; prompt_seconds
    last until the last row of a unit had its first pass, which gave prompt_tokens of the tokens. differences: by row
    the first difference from plain's text of the first round, in any round.
    """

    def __init__(self, kind: str, lossless: bool, units: Sequence[Sequence[int]], timed: Timed) -> None:
        """`units`: the prompts of each unit, by number; `timed`: the outputs are the method's `Generation`s."""
        self.kind, self.lossless, self.units = kind, lossless, units
        self.differences: dict[int, Difference] = {}
        self.rows = sum(map(len, units))
        self._rounds: list[list[Sequence[Generation]]] = timed.outputs
        self.seconds = np.array(timed.seconds)
        self.prompt_seconds = self._array(lambda own: max((output.prompt_seconds for output in own), default=0.0))
        self.tokens = self._array(lambda own: sum(len(output.token_ids) for output in own))
        self.prompt_tokens = self._array(
            lambda own: sum(min(output.prompt_tokens, len(output.token_ids)) for output in own)
        )
        self.calls = self._array(lambda own: sum(output.calls for output in own))
        # The rows of a unit go through the model together, so the last one to end tells how often.
        self.passes = self._array(lambda own: max((output.calls for output in own), default=0))

    def _array(self, count: Callable[[Sequence[Generation]], float]) -> np.ndarray:
        """[R, U] of each unit's outputs; what a method returned beyond the unit's prompts counts for nothing."""
        return np.array(
            [
                [count(outputs[: len(unit)]) for unit, outputs in zip(self.units, done, strict=True)]
                for done in self._rounds
            ]
        )

    def outputs(self, number: int = 0) -> list[Generation | None]:
        """Outputs of each prompt in a round, None where one is missing; then those that were too many."""
        found: list[Generation | None] = [None] * self.rows
        beyond: list[Generation] = []
        for unit, outputs in zip(self.units, self._rounds[number], strict=True):
            beyond += outputs[len(unit) :]
            for row, output in zip(unit, outputs, strict=False):  # there may be too few or too many
                found[row] = output
        return [*found, *beyond]

    def ids(self, number: int = 0) -> list[list[int] | None]:
        """Token ids of `outputs`."""
        return [None if output is None else output.token_ids for output in self.outputs(number)]

    def find_differences(self, expected: Sequence[list[int] | None]) -> None:
        """Fill in the differences from plain's `ids`, without margins."""
        for number in range(len(self._rounds)):
            for difference in compare_outputs(expected, self.ids(number)):
                self.differences.setdefault(difference.row, difference)

    def seconds_per_token(self, columns: Sequence[int]) -> float:
        """Median over the rounds, of the units `columns`; infinite for a round without tokens."""
        seconds, tokens = (values[:, columns].sum(axis=1) for values in (self.seconds, self.tokens))
        return float(np.median(np.where(tokens > 0, seconds / np.maximum(tokens, 1), np.inf)))


def summarise(
    methods: Mapping[str, Any],
    records: Mapping[str, Record],
    categories: Sequence[str] | None,
    seed: int,
) -> tuple[dict[str, MethodResult], str]:
    """Results of all methods, which have the same rounds and units, and the name of the one that they are measured
    against.

    `methods`: as `methods.DecodingMethod` has them; `categories`: of each row; `seed`: of the bootstrap. Within a
    category the baseline is the fastest plain method there, which need not be the one of the whole.
    """
    units = records[REFERENCE].units
    # A method that lost outputs may be fast for that reason. Plain itself stands in if none is whole.
    plain = [
        name
        for name, record in records.items()
        if record.kind == "plain" and None not in (outputs := record.outputs()) and len(outputs) == record.rows
    ] or [REFERENCE]

    def fastest(columns: Sequence[int]) -> str:
        return min(plain, key=lambda name: records[name].seconds_per_token(columns))

    baseline = fastest(range(len(units)))
    places: dict[str, list[int]] = {}
    for number, unit in enumerate(units if categories is not None else ()):
        places.setdefault((categories or ())[unit[0]], []).append(number)
    results = {}
    for name, record in records.items():
        results[name] = _result(methods[name], record, records[baseline], seed)
        for category, columns in places.items() if record.kind != YARDSTICK else ():
            nearest = fastest(columns)
            results[name].categories[category] = CategoryResult(
                rows=sum(len(units[column]) for column in columns),
                baseline=nearest,
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
    """Speed-up and its interval over some of the units."""
    times = baseline.seconds[:, columns], record.seconds[:, columns]
    tokens = baseline.tokens[:, columns], record.tokens[:, columns]
    return {
        "speedup": speedup(*times, tokens),
        "speedup_interval": bootstrap_interval(*times, seed, tokens=tokens),
    }


def _result(method: Any, record: Record, baseline: Record, seed: int) -> MethodResult:
    """All but the categories and the memory."""
    everything = range(len(record.units))
    counts = _counts(record, everything)
    prompt_seconds = float(np.median(record.prompt_seconds.sum(axis=1)))
    outputs = [output for output in record.outputs()[: record.rows] if output is not None]
    totals = record.seconds.sum(axis=1)
    compared: dict[str, Any] = dict.fromkeys(COMPARED)
    if record.kind != YARDSTICK:
        ratios = round_ratios(baseline.seconds, record.seconds, (baseline.tokens, record.tokens))
        compared = {
            **_speed(record, baseline, everything, seed),
            "speedup_mean": float(ratios.mean()),
            "speedup_spread": spread(ratios),
            "decode_speedup": _decode_speedup(baseline, record),
            "identical": max(record.rows - len(record.differences), 0),
        }
    return MethodResult(
        kind=record.kind,
        lossless=record.lossless,
        passes=int(record.passes[0].sum()),
        prompt_seconds=prompt_seconds,
        prompt_tokens=int(record.prompt_tokens[0].sum()),
        # Not the median of the differences, so that the two parts add up.
        decode_seconds=counts["seconds"] - prompt_seconds,
        seconds_per_round=totals.tolist(),
        tokens_per_second=float(np.median(record.tokens.sum(axis=1) / totals)),
        extra_parameters=method.extra_parameters(),
        extra_bytes=method.extra_bytes(),
        accepted=add_histograms(output.accepted for output in outputs) if record.kind == "speculative" else [],
        differences=[record.differences[row] for row in sorted(record.differences)],
        training=method.training(),
        **counts,
        **compared,
    )


def _decode_speedup(baseline: Record, record: Record) -> float | None:
    """`speedup` of what comes after the first passes; None where one of the two had all its tokens from them."""
    tokens = baseline.tokens - baseline.prompt_tokens, record.tokens - record.prompt_tokens
    if not all(counts.sum(axis=1).all() for counts in tokens):
        return None
    return speedup(baseline.seconds - baseline.prompt_seconds, record.seconds - record.prompt_seconds, tokens)
