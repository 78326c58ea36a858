"""The comparison of decoding methods: same prompts, the same batches of like length within one category, paired rounds.

What the rounds of `rounds.py` found becomes the result in `summary.py`.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ssft.bench.answers import weights_sha256
from ssft.bench.identity import add_margins
from ssft.bench.methods import REFERENCE
from ssft.bench.peak_memory import peak_bytes
from ssft.bench.result import BenchResult
from ssft.bench.rounds import Rounds, Way
from ssft.bench.summary import YARDSTICK, Record, summarise, traits
from ssft.environment import versions
from ssft.errors import ConfigError, SSFTError
from ssft.runtime.batching import length_batches

WARM_UP_ERRORS = (SSFTError, RuntimeError, ValueError, torch.OutOfMemoryError)
"""A method that raises one of these before anything is timed cannot run here."""


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
    categories: Sequence[str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> BenchResult:
    """Run every method over all prompts `rounds` times and compare.

    Args:
        adapted: the `MultiAdapterModel` that the methods decode with.
        prompts: token ids.
        methods: name -> method ready to run (`methods.build_methods`); must hold plain, whose text is the reference.
        seed: order of the methods in each round, and the bootstrap.
        progress: a bar on stderr once it takes more than two seconds.
        categories: of each prompt; a batch holds prompts of one category only.
        left_out: methods that cannot run here, and why. If given, a method that fails joins them, plain aside: with an
            `SSFTError` at any time, or with what torch and other libraries raise in the warm-up. Without it, and for
            plain, the error is raised.

    A Ctrl-C after at least one finished round returns what is there, with `interrupted` set.
    """
    if REFERENCE not in methods:
        raise ConfigError(
            f"speed-up is measured against {REFERENCE!r}, which is not among {', '.join(methods)}; add it"
        )
    if not prompts or rounds < 1:
        raise ConfigError(f"{len(prompts)} prompts, {rounds} rounds: a measurement needs at least one of each")
    if categories is not None and len(categories) != len(prompts):
        raise ConfigError(f"{len(categories)} categories for {len(prompts)} prompts; give one for each prompt")
    facts = {name: traits(name, method) for name, method in methods.items()}
    lengths = [len(prompt) for prompt in prompts]
    units = category_batches(lengths, batch_size, categories)
    warm_up, largest = _warm_up(lengths, units)
    peaks: dict[str, int | None] = {}
    out = dict(left_out or {})

    def way(name: str) -> Way:
        def run(unit: list[int]) -> Any:
            # The token ids that come back have been copied from the device, so nothing is left in its queue.
            return methods[name].run([prompts[index] for index in unit])

        def prepare() -> None:
            for unit in warm_up:
                run(unit)
            # The memory of a yardstick, which is another program, is not torch's.
            device = torch.device("meta") if facts[name][0] == YARDSTICK else adapted.model.device
            peaks[name] = peak_bytes(device, lambda: run(largest))

        return Way(run, units, prepare)

    def leave(name: str, error: Exception, warming_up: bool) -> None:
        """Go on without the method, if that is allowed."""
        allowed = isinstance(error, WARM_UP_ERRORS if warming_up else SSFTError)
        if left_out is None or name == REFERENCE or not allowed:
            raise error
        out[name] = str(error) if isinstance(error, SSFTError) else f"{type(error).__name__}: {error}"

    loop = Rounds({name: way(name) for name in methods}, rounds, seed, progress)
    timed = loop.run(leave)
    interrupted = loop.interrupted
    records = {name: Record(*facts[name], units, done) for name, done in timed.items()}
    plain = records[REFERENCE].ids()[: len(prompts)]
    compared = [record for record in records.values() if record.kind != YARDSTICK]
    for record in compared:
        record.find_differences(plain)
    try:
        for record in compared if not interrupted else ():
            add_margins(adapted, prompts, plain, record.differences.values())
    except KeyboardInterrupt:
        interrupted = True
    done_rounds = len(timed[REFERENCE].seconds)
    if interrupted:
        print(f"interrupted: the result covers {done_rounds} of {rounds} rounds", file=sys.stderr)
    results, baseline = summarise(methods, records, categories, seed)
    for name, result in results.items():
        result.peak_bytes = peaks[name]
    return BenchResult(
        adapter=adapted.active.name,
        device=adapted.device,
        precision=adapted.precision,
        threads=torch.get_num_threads(),
        rows=len(prompts),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        rounds=done_rounds,
        interrupted=interrupted,
        seed=seed,
        tree=adapted.active.tree.tree_dict(),
        versions=versions(),
        methods=results,
        baseline=baseline,
        left_out=out,
        outputs=[list(ids or []) for ids in plain],
        adapter_sha256=weights_sha256(adapted),
        prompts_sha256=hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
    )


def category_batches(
    lengths: Sequence[int], batch_size: int, categories: Sequence[str] | None = None
) -> list[list[int]]:
    """`length_batches` within each category, the categories in order of their first prompt."""
    groups: dict[str, list[int]] = {}
    for index in range(len(lengths)):
        groups.setdefault("" if categories is None else categories[index], []).append(index)
    return [
        [group[place] for place in batch]
        for group in groups.values()
        for batch in length_batches([lengths[index] for index in group], batch_size)
    ]


def _warm_up(lengths: Sequence[int], units: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Units to run before anything counts, and the largest unit, whose memory is taken then.

    The first is the one with the longest prompt: what is compiled for the longest text is compiled there, and neither
    in a round nor under the profiler of the memory. The second is the smallest.
    """

    def size(unit: list[int]) -> int:
        return len(unit) * max(lengths[index] for index in unit)

    longest = max(units, key=lambda unit: (max(lengths[index] for index in unit), len(unit)))
    smallest, largest = min(units, key=size), max(units, key=size)
    return [longest] if smallest is longest else [longest, smallest], largest
