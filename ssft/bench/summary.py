"""From the rounds of `measure.py` to the numbers of its result.

Speed-up is the median over the rounds of the baseline's seconds per token / the method's within the round
(`statistics.py`), the baseline being the plain method with the fewest seconds per token that ran. Where two texts are
the same, that is the ratio of seconds; a method does not gain by a text that differs and is shorter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssft.bench.identity import compare_outputs
from ssft.bench.methods import KINDS, REFERENCE, method_module, method_names
from ssft.bench.result import CategoryResult, Difference, MethodResult
from ssft.bench.statistics import add_histograms, bootstrap_interval, round_ratios, speedup, spread
from ssft.decoding.request import Generation
from ssft.errors import ConfigError


@dataclass
class Round:
    """What one method did in one round.

    times, prompt_times: [U] seconds of each unit, and until its last row's first pass was done. tokens, prompt_tokens,
    passes: [U] tokens of its prompts, those of them that the first passes gave, and passes of the model. outputs: of
    each prompt, None where the method returned too few. surplus: what it returned beyond a unit's prompts; it is told
    as a difference and counts for nothing else.
    """

    times: list[float]
    prompt_times: list[float]
    tokens: list[int]
    prompt_tokens: list[int]
    passes: list[int]
    outputs: list[Generation | None]
    surplus: list[Generation]

    @classmethod
    def empty(cls, rows: int) -> "Round":
        """A round over `rows` prompts that has not begun."""
        return cls([], [], [], [], [], [None] * rows, [])

    def add(self, unit: list[int], seconds: float, outputs: Sequence[Generation]) -> None:
        """Take in what the method returned for the prompts of `unit`."""
        own = outputs[: len(unit)]
        self.times.append(seconds)
        self.prompt_times.append(max((output.prompt_seconds for output in own), default=0.0))
        self.tokens.append(sum(len(output.token_ids) for output in own))
        self.prompt_tokens.append(sum(min(output.prompt_tokens, len(output.token_ids)) for output in own))
        # The rows of a unit go through the model together, so the last one to end tells how often.
        self.passes.append(max((output.calls for output in own), default=0))
        # Too few or too many outputs are told as differences, so the lengths may differ here.
        for row, output in zip(unit, own, strict=False):
            self.outputs[row] = output
        self.surplus += outputs[len(unit) :]

    def ids(self) -> list[list[int] | None]:
        """Token ids of each prompt, then of the surplus."""
        return [None if output is None else output.token_ids for output in (*self.outputs, *self.surplus)]


@dataclass
class Record:
    """Finished rounds of one method."""

    rounds: list[Round] = field(default_factory=list)

    def add(self, done: Round) -> None:
        """Take in a round, wholly or not at all."""
        self.rounds.append(done)

    def cut(self, count: int) -> None:
        """Keep the first `count` rounds."""
        del self.rounds[count:]

    def seconds(self) -> np.ndarray:
        """[R, U] of each unit."""
        return np.array([done.times for done in self.rounds])

    def prompt_seconds(self) -> np.ndarray:
        """[R, U] of each unit's first pass."""
        return np.array([done.prompt_times for done in self.rounds])

    def tokens(self) -> np.ndarray:
        """[R, U] of each unit."""
        return np.array([done.tokens for done in self.rounds])

    def prompt_tokens(self) -> np.ndarray:
        """[R, U] of each unit's first passes."""
        return np.array([done.prompt_tokens for done in self.rounds])

    @property
    def outputs(self) -> list[Generation | None]:
        """The first round's, of each prompt."""
        return self.rounds[0].outputs

    @property
    def ids(self) -> list[list[int] | None]:
        """Token ids of each prompt in the first round."""
        return self.rounds[0].ids()[: len(self.outputs)]

    @property
    def complete(self) -> bool:
        """Whether the first round has one output for each prompt."""
        return None not in self.outputs and not self.rounds[0].surplus


@dataclass
class Candidate:
    """A method with what its module says of it (`methods/__init__.py`), and what was found.

    differences: by row the first difference from plain's text of the first round, see `find_differences`.
    """

    method: Any
    kind: str
    lossless: bool
    record: Record = field(default_factory=Record)
    peak_bytes: int | None = None
    differences: dict[int, Difference] = field(default_factory=dict)


def candidate(name: str, method: Any) -> Candidate:
    """A method before its first run; KIND and LOSSLESS are attributes of the object, else of the module of its name."""
    module = method_module(name) if name in method_names() else None
    kind, lossless = (getattr(method, trait, getattr(module, trait, None)) for trait in ("KIND", "LOSSLESS"))
    if kind not in KINDS or lossless is None:
        raise ConfigError(
            f"method {name!r} has KIND={kind!r} and LOSSLESS={lossless!r}; its class or module must say both, KIND "
            f"being one of {', '.join(KINDS)}"
        )
    return Candidate(method, kind, lossless)


def find_differences(candidates: Mapping[str, Candidate]) -> None:
    """Fill in the differences of all methods, yardsticks aside, without margins; each has a finished round."""
    expected = candidates[REFERENCE].record.ids
    for entry in candidates.values():
        if entry.kind == "yardstick":
            continue
        entry.differences = {}
        for done in entry.record.rounds:
            for difference in compare_outputs(expected, done.ids()):
                entry.differences.setdefault(difference.row, difference)


def summarise(
    candidates: Mapping[str, Candidate],
    units: Sequence[Sequence[int]],
    categories: Sequence[str] | None,
    seed: int,
) -> tuple[dict[str, MethodResult], str]:
    """Results of all methods, which have the same number of rounds, and the name of the one that they are measured
    against.

    `units`: rows of each unit; `categories`: of each row; `seed`: of the bootstrap. Within a category the baseline is
    the fastest plain method there, which need not be the one of the whole.
    """
    records = {name: entry.record for name, entry in candidates.items()}
    # A method that lost outputs may be fast for that reason. Plain itself stands in if none is whole.
    plain = [n for n, entry in candidates.items() if entry.kind == "plain" and entry.record.complete] or [REFERENCE]

    def fastest(columns: Sequence[int]) -> str:
        return min(plain, key=lambda name: _seconds_per_token(records[name], columns))

    baseline = fastest(range(len(units)))
    places = category_places(units, categories)
    results = {}
    for name, entry in candidates.items():
        results[name] = _result(entry, records[baseline], seed)
        if entry.kind == "yardstick":
            continue
        for category, columns in places.items():
            rows = [row for column in columns for row in units[column]]
            nearest = fastest(columns)
            results[name].categories[category] = _category(entry.record, rows, columns, nearest, records[nearest], seed)
    return results, baseline


def _seconds_per_token(record: Record, columns: Sequence[int]) -> float:
    """Median over the rounds, of the units `columns`; infinite for a round without tokens."""
    seconds, tokens = (values[:, columns].sum(axis=1) for values in (record.seconds(), record.tokens()))
    return float(np.median(np.where(tokens > 0, seconds / np.maximum(tokens, 1), np.inf)))


def category_places(units: Sequence[Sequence[int]], categories: Sequence[str] | None) -> dict[str, list[int]]:
    """Category -> its units; none without categories. A unit holds rows of one category only."""
    places: dict[str, list[int]] = {}
    if categories is not None:
        for number, unit in enumerate(units):
            places.setdefault(categories[unit[0]], []).append(number)
    return places


def _result(entry: Candidate, baseline: Record, seed: int) -> MethodResult:
    """All but the categories."""
    record = entry.record
    first = record.rounds[0]
    times, reference = record.seconds(), baseline.seconds()
    counts = (baseline.tokens(), record.tokens())
    totals = times.sum(axis=1)
    outputs = [output for output in record.outputs if output is not None]
    tokens, calls = sum(first.tokens), sum(output.calls for output in outputs)
    seconds, prompt_seconds = float(np.median(totals)), float(np.median(record.prompt_seconds().sum(axis=1)))
    compared = entry.kind != "yardstick"
    ratios = round_ratios(reference, times, counts)
    return MethodResult(
        kind=entry.kind,
        lossless=entry.lossless,
        tokens=tokens,
        calls=calls,
        passes=sum(first.passes),
        tokens_per_call=tokens / calls if calls else 0.0,
        seconds=seconds,
        prompt_seconds=prompt_seconds,
        prompt_tokens=sum(first.prompt_tokens),
        # Not the median of the differences, so that the two parts add up.
        decode_seconds=seconds - prompt_seconds,
        seconds_per_round=totals.tolist(),
        tokens_per_second=float(np.median(record.tokens().sum(axis=1) / totals)),
        speedup=float(np.median(ratios)) if compared else None,
        speedup_interval=bootstrap_interval(reference, times, seed, tokens=counts) if compared else None,
        speedup_mean=float(ratios.mean()) if compared else None,
        speedup_spread=spread(ratios) if compared else None,
        decode_speedup=_decode_speedup(baseline, record) if compared else None,
        identical=max(len(record.outputs) - len(entry.differences), 0) if compared else None,
        extra_parameters=entry.method.extra_parameters(),
        extra_bytes=entry.method.extra_bytes(),
        peak_bytes=entry.peak_bytes,
        accepted=add_histograms(output.accepted for output in outputs) if entry.kind == "speculative" else [],
        differences=[entry.differences[row] for row in sorted(entry.differences)] if compared else [],
        training=entry.method.training(),
    )


def _decode_speedup(baseline: Record, record: Record) -> float | None:
    """`speedup` of what comes after the first passes; None where one of the two had all its tokens from them."""
    counts = (baseline.tokens() - baseline.prompt_tokens(), record.tokens() - record.prompt_tokens())
    if not all(tokens.sum(axis=1).all() for tokens in counts):
        return None
    times = (baseline.seconds() - baseline.prompt_seconds(), record.seconds() - record.prompt_seconds())
    return speedup(*times, counts)


def _category(
    record: Record, rows: Sequence[int], columns: Sequence[int], name: str, baseline: Record, seed: int
) -> CategoryResult:
    """One method on `rows`, which are those of the units `columns`, against the plain method `name`."""
    first = record.rounds[0]
    tokens = sum(first.tokens[column] for column in columns)
    calls = sum(output.calls for row in rows if (output := first.outputs[row]) is not None)
    times, reference = record.seconds()[:, columns], baseline.seconds()[:, columns]
    counts = (baseline.tokens()[:, columns], record.tokens()[:, columns])
    return CategoryResult(
        rows=len(rows),
        tokens=tokens,
        calls=calls,
        tokens_per_call=tokens / calls if calls else 0.0,
        seconds=float(np.median(times.sum(axis=1))),
        baseline=name,
        speedup=speedup(reference, times, counts),
        speedup_interval=bootstrap_interval(reference, times, seed, tokens=counts),
    )
