"""The comparison of decoding methods: same prompts, a warm-up that does not count, paired rounds in random order.

Every round runs every method over all prompts. Speed-up is the median over the rounds of plain seconds / method
seconds within the round (`statistics.py`).
"""

import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ssft._version import __version__
from ssft.bench.batching import length_batches
from ssft.bench.methods import BASELINE
from ssft.bench.statistics import add_histograms, bootstrap_interval, round_ratios, speedup, spread
from ssft.decoding.request import Generation
from ssft.errors import ConfigError

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
WARM_UP_UNITS = 2


@dataclass
class MethodResult:
    """What one method did. Tokens, calls and accepted are one round's; seconds is the median over the rounds.

    speedup: median over the rounds of the paired ratio; speedup_interval: its bootstrap 95 % interval over rounds and
    prompts; speedup_mean, speedup_spread: mean and standard deviation of the ratios. identical: prompts whose ids
    equal plain's in every round. accepted: [depth] passes that accepted so deep, streaming only.
    """

    tokens: int
    calls: int
    tokens_per_call: float
    seconds: float
    seconds_per_round: list[float]
    tokens_per_second: float
    speedup: float
    speedup_interval: tuple[float, float]
    speedup_mean: float
    speedup_spread: float
    identical: int
    extra_parameters: int
    accepted: list[int] = field(default_factory=list)


@dataclass
class BenchResult:
    """A comparison with all that it depends on; its fields are the keys of `ssft bench --json`."""

    adapter: str
    device: str
    precision: str
    threads: int
    rows: int
    batch_size: int
    max_new_tokens: int
    rounds: int
    interrupted: bool
    seed: int
    tree: dict[str, Any]
    versions: dict[str, str]
    methods: dict[str, MethodResult]


@dataclass
class _Record:
    """Finished rounds of one method: times [R][U] in seconds, the first round's outputs, prompts that ever differed."""

    times: list[list[float]] = field(default_factory=list)
    outputs: list[Generation] = field(default_factory=list)
    differing: set[int] = field(default_factory=set)


def versions() -> dict[str, str]:
    """Versions of ssft and of the packages that decide speed and results."""
    found = {"ssft": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def measure(
    adapted: Any,
    prompts: Sequence[list[int]],
    methods: Mapping[str, Any],
    *,
    max_new_tokens: int,
    batch_size: int = 1,
    rounds: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> BenchResult:
    """Run every method over all prompts `rounds` times and compare.

    Args:
        adapted: the `AdaptedModel` that the methods decode with.
        prompts: token ids.
        methods: name -> method ready to run (`methods.build_methods`); must hold the baseline.
        seed: order of the methods in each round, and the bootstrap.
        progress: a bar on stderr once it takes more than two seconds.

    A Ctrl-C after at least one finished round returns what is there, with `interrupted` set.
    """
    if BASELINE not in methods:
        raise ConfigError(f"speed-up is measured against {BASELINE!r}, which is not among {', '.join(methods)}; add it")
    if not prompts or rounds < 1:
        raise ConfigError(f"{len(prompts)} prompts, {rounds} rounds: a measurement needs at least one of each")
    units = length_batches([len(prompt) for prompt in prompts], batch_size)
    records = {name: _Record() for name in methods}
    order = random.Random(seed)
    interrupted = False
    bar = tqdm(
        total=rounds * len(methods) * len(prompts),
        unit="prompt",
        delay=2,
        disable=None if progress else True,
        leave=False,
    )
    try:
        for method in methods.values():
            for unit in [units[0], *units[:0:-1]][:WARM_UP_UNITS]:  # the shortest prompts, then the longest
                method.run([prompts[index] for index in unit])
        for _ in range(rounds):
            finished = _round(prompts, methods, units, order.sample(list(methods), len(methods)), bar)
            _add_round(records, finished)
    except KeyboardInterrupt:
        if not records[BASELINE].times:
            raise
        interrupted = True
        done = len(records[BASELINE].times)
        print(f"interrupted: the result covers {done} of {rounds} rounds", file=sys.stderr)
    finally:
        bar.close()
    return BenchResult(
        adapter=adapted.name,
        device=adapted.device,
        precision=adapted.precision,
        threads=torch.get_num_threads(),
        rows=len(prompts),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        rounds=len(records[BASELINE].times),
        interrupted=interrupted,
        seed=seed,
        tree=adapted.tree.tree_dict(),
        versions=versions(),
        methods={name: _summary(records[name], records[BASELINE], methods[name], seed) for name in methods},
    )


def _round(
    prompts: Sequence[list[int]], methods: Mapping[str, Any], units: list[list[int]], order: list[str], bar: Any
) -> dict[str, tuple[list[float], list[Generation]]]:
    """Method -> seconds of each unit, and its outputs in the prompts' order."""
    finished = {}
    for name in order:
        bar.set_postfix_str(name, refresh=False)
        seconds: list[float] = []
        outputs: dict[int, Generation] = {}
        for unit in units:
            batch = [prompts[index] for index in unit]
            begin = time.perf_counter()
            # The token ids that come back have been copied from the device, so nothing is left in its queue.
            done = methods[name].run(batch)
            seconds.append(time.perf_counter() - begin)
            outputs.update(zip(unit, done, strict=True))
            bar.update(len(unit))
        finished[name] = (seconds, [outputs[index] for index in range(len(prompts))])
    return finished


def _add_round(records: dict[str, _Record], finished: dict[str, tuple[list[float], list[Generation]]]) -> None:
    """Only whole rounds count: a pair needs both halves."""
    reference = records[BASELINE].outputs or finished[BASELINE][1]
    for name, (seconds, outputs) in finished.items():
        record = records[name]
        record.times.append(seconds)
        record.outputs = record.outputs or outputs
        record.differing |= {
            row
            for row, (left, right) in enumerate(zip(reference, outputs, strict=True))
            if left.token_ids != right.token_ids
        }


def _summary(record: _Record, baseline: _Record, method: Any, seed: int) -> MethodResult:
    times, reference = np.array(record.times), np.array(baseline.times)
    ratios = round_ratios(reference, times)
    totals = times.sum(axis=1)
    tokens = sum(len(output.token_ids) for output in record.outputs)
    calls = sum(output.calls for output in record.outputs)
    return MethodResult(
        tokens=tokens,
        calls=calls,
        tokens_per_call=tokens / calls,
        seconds=float(np.median(totals)),
        seconds_per_round=totals.tolist(),
        tokens_per_second=float(np.median(tokens / totals)),
        speedup=speedup(reference, times),
        speedup_interval=bootstrap_interval(reference, times, seed),
        speedup_mean=float(ratios.mean()),
        speedup_spread=spread(ratios),
        identical=len(record.outputs) - len(record.differing),
        extra_parameters=method.extra_parameters(),
        # The baseline drafts nothing, so its histogram would say nothing.
        accepted=[] if record is baseline else add_histograms(output.accepted for output in record.outputs),
    )
