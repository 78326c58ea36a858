"""The comparison of decoding methods: same prompts, a warm-up that does not count, paired rounds in random order.

Every round runs every method over all prompts, in the same units (batches of like length within one category). What
the rounds found becomes the result in `summary.py`.
"""

import hashlib
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from typing import Any

import torch
from tqdm import tqdm

from ssft._version import __version__
from ssft.bench.answers import weights_sha256
from ssft.bench.batching import length_batches
from ssft.bench.identity import add_margins
from ssft.bench.methods import REFERENCE
from ssft.bench.peak_memory import peak_bytes
from ssft.bench.result import BenchResult
from ssft.bench.summary import Candidate, Round, candidate, find_differences, summarise
from ssft.decoding.request import Generation
from ssft.errors import ConfigError, SSFTError

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
WARM_UP_ERRORS = (SSFTError, RuntimeError, ValueError, torch.OutOfMemoryError)
"""A method that raises one of these before anything is timed cannot run here."""


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
    categories: Sequence[str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> BenchResult:
    """Run every method over all prompts `rounds` times and compare.

    Args:
        adapted: the `AdaptedModel` that the methods decode with.
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
    candidates = {name: candidate(name, method) for name, method in methods.items()}
    units = category_batches([len(prompt) for prompt in prompts], batch_size, categories)
    warm_up, largest = _warm_up([len(prompt) for prompt in prompts], units)
    share = sum(map(len, warm_up)) + len(largest) + rounds * len(prompts)
    bar = _Bar(len(methods), share, progress)
    out = dict(left_out or {})

    def run(name: str, unit: list[int]) -> Sequence[Generation]:
        outputs: Sequence[Generation] = candidates[name].method.run([prompts[index] for index in unit])
        return outputs

    def leave(name: str, error: Exception) -> None:
        """Go on without the method, if that is allowed."""
        if left_out is None or name == REFERENCE:
            raise error
        out[name] = str(error) if isinstance(error, SSFTError) else f"{type(error).__name__}: {error}"
        del candidates[name]
        bar.leave(name)

    order = random.Random(seed)
    interrupted = False
    try:
        for name in methods:
            bar.show(f"{name}, warm-up")
            try:
                for unit in warm_up:
                    run(name, unit)
                    bar.add(name, len(unit))
                candidates[name].peak_bytes = _peak_bytes(adapted, candidates[name], partial(run, name, largest))
                bar.add(name, len(largest))
            except WARM_UP_ERRORS as error:
                leave(name, error)
        for _ in range(rounds):
            finished = {}
            for name in order.sample(list(candidates), len(candidates)):
                bar.show(name)
                try:
                    finished[name] = _round(len(prompts), units, partial(run, name), partial(bar.add, name))
                except SSFTError as error:
                    leave(name, error)
            for name, done in finished.items():  # only whole rounds count: a pair needs both halves
                candidates[name].record.add(done)
    except KeyboardInterrupt:
        # Between two of the methods' records, too.
        done_rounds = min(len(entry.record.rounds) for entry in candidates.values())
        if not done_rounds:
            raise
        for entry in candidates.values():
            entry.record.cut(done_rounds)
        interrupted = True
    finally:
        bar.close()
    plain = candidates[REFERENCE].record
    find_differences(candidates)
    try:
        for entry in candidates.values() if not interrupted else ():
            add_margins(adapted, prompts, plain.ids, entry.differences.values())
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        print(f"interrupted: the result covers {len(plain.rounds)} of {rounds} rounds", file=sys.stderr)
    results, baseline = summarise(candidates, units, categories, seed)
    return BenchResult(
        adapter=adapted.name,
        device=adapted.device,
        precision=adapted.precision,
        threads=torch.get_num_threads(),
        rows=len(prompts),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        rounds=len(plain.rounds),
        interrupted=interrupted,
        seed=seed,
        tree=adapted.tree.tree_dict(),
        versions=versions(),
        methods=results,
        baseline=baseline,
        left_out=out,
        outputs=[list(ids or []) for ids in plain.ids],
        adapter_sha256=weights_sha256(adapted),
        prompts_sha256=hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
    )


def category_batches(
    lengths: Sequence[int], batch_size: int, categories: Sequence[str] | None = None
) -> list[list[int]]:
    """`length_batches` within each category, the categories in order of their first prompt."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in range(len(lengths)):
        groups["" if categories is None else categories[index]].append(index)
    return [
        [group[place] for place in batch]
        for group in groups.values()
        for batch in length_batches([lengths[index] for index in group], batch_size)
    ]


class _Bar:
    """A bar on stderr, once it takes more than two seconds, over `share` prompts of each of `methods` methods."""

    def __init__(self, methods: int, share: int, progress: bool) -> None:
        self.share = share
        self.done: Counter[str] = Counter()
        self.bar = tqdm(total=methods * share, unit="prompt", delay=2, disable=None if progress else True, leave=False)

    def show(self, text: str) -> None:
        """What runs now."""
        self.bar.set_postfix_str(text, refresh=False)

    def add(self, name: str, prompts: int) -> None:
        """The method has run so many more prompts."""
        self.done[name] += prompts
        self.bar.update(prompts)

    def leave(self, name: str) -> None:
        """The method runs no more; what it had still to do is taken off."""
        self.bar.total -= self.share - self.done[name]

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()


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


def _peak_bytes(adapted: Any, entry: Candidate, run: Callable[[], Any]) -> int | None:
    """Call `run`; most bytes of tensors meanwhile, None where they cannot be told."""
    if entry.kind == "yardstick":  # another program, whose memory is not torch's
        run()
        return None
    return peak_bytes(adapted.model.device, run)


def _round(
    rows: int,
    units: Sequence[list[int]],
    run: Callable[[list[int]], Sequence[Generation]],
    tick: Callable[[int], None],
) -> Round:
    """What one method does in one round over `rows` prompts; `run` decodes a unit, `tick` hears how many that were."""
    done = Round.empty(rows)
    for unit in units:
        begin = time.perf_counter()
        # The token ids that come back have been copied from the device, so nothing is left in its queue.
        outputs = run(unit)
        done.add(unit, time.perf_counter() - begin, outputs)
        tick(len(unit))
    return done
