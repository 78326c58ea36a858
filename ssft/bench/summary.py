"""From the rounds of `measure.py` to the numbers of its result.

Speed-up is the median over the rounds of baseline seconds / method seconds within the round (`statistics.py`), the
baseline being the fastest plain method that ran.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssft.bench.compare import Difference, compare_outputs
from ssft.bench.methods import BASELINE, KINDS, method_module, method_names
from ssft.bench.result import CategoryResult, MethodResult
from ssft.bench.statistics import add_histograms, bootstrap_interval, round_ratios, speedup, spread
from ssft.decoding.request import Generation
from ssft.errors import ConfigError


@dataclass
class Round:
    """What one method did in one round.

    times, prompt_times: [U] seconds of each unit, and until its last row had its first token. outputs: of each prompt,
    None where the method returned too few. surplus: what it returned beyond a unit's prompts.
    """

    times: list[float]
    prompt_times: list[float]
    outputs: list[Generation | None]
    surplus: list[Generation]

    @classmethod
    def empty(cls, rows: int) -> "Round":
        """A round over `rows` prompts that has not begun."""
        return cls([], [], [None] * rows, [])

    def add(self, unit: list[int], seconds: float, outputs: Sequence[Generation]) -> None:
        """Take in what the method returned for the prompts of `unit`."""
        self.times.append(seconds)
        self.prompt_times.append(max((output.prompt_seconds for output in outputs), default=0.0))
        # Too few or too many outputs are told as differences, so the lengths may differ here.
        for row, output in zip(unit, outputs, strict=False):
            self.outputs[row] = output
        self.surplus += outputs[len(unit) :]

    def ids(self) -> list[list[int] | None]:
        """Token ids of each prompt, then of the surplus."""
        return [None if output is None else output.token_ids for output in (*self.outputs, *self.surplus)]


@dataclass
class Record:
    """Finished rounds of one method: times and prompt_times [R][U] in seconds, the first round's outputs and ids, and
    by row the first difference from plain's text of the first round."""

    times: list[list[float]] = field(default_factory=list)
    prompt_times: list[list[float]] = field(default_factory=list)
    outputs: list[Generation | None] = field(default_factory=list)
    surplus: list[Generation] = field(default_factory=list)
    differences: dict[int, Difference] = field(default_factory=dict)

    def add(self, done: Round, expected: Sequence[list[int] | None]) -> None:
        """Take in a round; `expected`: plain's text of each prompt in the first round."""
        if not self.times:
            self.outputs, self.surplus = done.outputs, done.surplus
        self.times.append(done.times)
        self.prompt_times.append(done.prompt_times)
        for difference in compare_outputs(expected, done.ids()):
            self.differences.setdefault(difference.row, difference)

    @property
    def ids(self) -> list[list[int] | None]:
        """Token ids of each prompt in the first round."""
        return [None if output is None else output.token_ids for output in self.outputs]

    @property
    def complete(self) -> bool:
        """Whether the first round has one output for each prompt."""
        return None not in self.outputs and not self.surplus


@dataclass
class Candidate:
    """A method with what its module says of it (`methods/__init__.py`), and what was found."""

    method: Any
    kind: str
    lossless: bool
    record: Record = field(default_factory=Record)
    peak_bytes: int | None = None


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


def summarise(
    candidates: Mapping[str, Candidate],
    units: Sequence[Sequence[int]],
    categories: Sequence[str] | None,
    seed: int,
) -> tuple[dict[str, MethodResult], str]:
    """Results of all methods, and the name of the one that they are measured against.

    `units`: rows of each unit; `categories`: of each row; `seed`: of the bootstrap. Within a category the baseline is
    the fastest plain method there, which need not be the one of the whole.
    """
    times = {name: np.array(entry.record.times) for name, entry in candidates.items()}
    # A method that lost outputs may be fast for that reason. Plain itself stands in if none is whole.
    plain = [n for n, entry in candidates.items() if entry.kind == "plain" and entry.record.complete] or [BASELINE]

    def fastest(columns: Sequence[int]) -> str:
        return min(plain, key=lambda name: np.median(times[name][:, columns].sum(axis=1)))

    baseline = fastest(range(len(units)))
    places = category_places(units, categories)
    results = {}
    for name, entry in candidates.items():
        results[name] = _result(entry, candidates[baseline].record, seed)
        if entry.kind == "yardstick":
            continue
        for category, columns in places.items():
            rows = [row for column in columns for row in units[column]]
            reference = times[fastest(columns)][:, columns]
            results[name].categories[category] = _category(entry, rows, times[name][:, columns], reference, seed)
    return results, baseline


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
    times, reference = np.array(record.times), np.array(baseline.times)
    prompt, reference_prompt = np.array(record.prompt_times), np.array(baseline.prompt_times)
    totals = times.sum(axis=1)
    outputs = [output for output in (*record.outputs, *record.surplus) if output is not None]
    tokens, calls = _counts(outputs)
    seconds, prompt_seconds = float(np.median(totals)), float(np.median(prompt.sum(axis=1)))
    compared = entry.kind != "yardstick"
    ratios = round_ratios(reference, times)
    # Where all texts end with their first token, there is no decoding to compare.
    decodes = tokens > len(record.outputs)
    return MethodResult(
        kind=entry.kind,
        lossless=entry.lossless,
        tokens=tokens,
        calls=calls,
        tokens_per_call=tokens / calls if calls else 0.0,
        seconds=seconds,
        prompt_seconds=prompt_seconds,
        # Not the median of the differences, so that the two parts add up.
        decode_seconds=seconds - prompt_seconds,
        seconds_per_round=totals.tolist(),
        tokens_per_second=float(np.median(tokens / totals)),
        speedup=float(np.median(ratios)) if compared else None,
        speedup_interval=bootstrap_interval(reference, times, seed) if compared else None,
        speedup_mean=float(ratios.mean()) if compared else None,
        speedup_spread=spread(ratios) if compared else None,
        decode_speedup=speedup(reference - reference_prompt, times - prompt) if compared and decodes else None,
        identical=max(len(record.outputs) - len(record.differences), 0) if compared else None,
        extra_parameters=entry.method.extra_parameters(),
        extra_bytes=entry.method.extra_bytes(),
        peak_bytes=entry.peak_bytes,
        accepted=add_histograms(output.accepted for output in outputs) if entry.kind == "speculative" else [],
        differences=[record.differences[row] for row in sorted(record.differences)] if compared else [],
    )


def _category(
    entry: Candidate, rows: Sequence[int], times: np.ndarray, reference: np.ndarray, seed: int
) -> CategoryResult:
    """One method on `rows`, whose units took times [R, U] in seconds, the baseline's reference [R, U]."""
    outputs = [output for row in rows if (output := entry.record.outputs[row]) is not None]
    tokens, calls = _counts(outputs)
    return CategoryResult(
        rows=len(rows),
        tokens=tokens,
        calls=calls,
        tokens_per_call=tokens / calls if calls else 0.0,
        seconds=float(np.median(times.sum(axis=1))),
        speedup=speedup(reference, times),
        speedup_interval=bootstrap_interval(reference, times, seed),
    )


def _counts(outputs: Sequence[Generation]) -> tuple[int, int]:
    """Tokens and calls."""
    return sum(len(output.token_ids) for output in outputs), sum(output.calls for output in outputs)
