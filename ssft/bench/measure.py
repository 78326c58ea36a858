"""The comparison of decoding methods: same prompts, a warm-up that does not count, paired rounds in random order.

Every round runs every method over all prompts, in the same units (batches of like length within one category). What
the rounds found becomes the result in `summary.py`.
"""

import hashlib
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch
from tqdm import tqdm

from ssft._version import __version__
from ssft.bench.answers import weights_sha256
from ssft.bench.batching import length_batches
from ssft.bench.compare import add_margins
from ssft.bench.memory import peak_bytes
from ssft.bench.methods import BASELINE
from ssft.bench.result import BenchResult
from ssft.bench.summary import Candidate, Round, candidate, summarise
from ssft.errors import ConfigError, SSFTError

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


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
        left_out: methods that cannot run here, and why. If given, a method that fails with an `SSFTError` in the
            warm-up joins them, plain aside; without it the error is raised.

    A Ctrl-C after at least one finished round returns what is there, with `interrupted` set.
    """
    if BASELINE not in methods:
        raise ConfigError(f"speed-up is measured against {BASELINE!r}, which is not among {', '.join(methods)}; add it")
    if not prompts or rounds < 1:
        raise ConfigError(f"{len(prompts)} prompts, {rounds} rounds: a measurement needs at least one of each")
    if categories is not None and len(categories) != len(prompts):
        raise ConfigError(f"{len(categories)} categories for {len(prompts)} prompts; give one for each prompt")
    candidates = {name: candidate(name, method) for name, method in methods.items()}
    units = category_batches([len(prompt) for prompt in prompts], batch_size, categories)
    by_size = sorted(units, key=lambda unit: len(unit) * max(len(prompts[index]) for index in unit))
    smallest, largest = by_size[0], by_size[-1]
    out = dict(left_out or {})
    plain = candidates[BASELINE].record
    order = random.Random(seed)
    interrupted = False
    bar = tqdm(
        total=len(methods) * (len(smallest) + len(largest) + rounds * len(prompts)),
        unit="prompt",
        delay=2,
        disable=None if progress else True,
        leave=False,
    )
    try:
        for name in methods:
            bar.set_postfix_str(f"{name}, warm-up", refresh=False)
            entry = candidates[name]
            try:
                entry.method.run([prompts[index] for index in smallest])
                bar.update(len(smallest))
                entry.peak_bytes = _peak_bytes(adapted, entry, [prompts[index] for index in largest])
                bar.update(len(largest))
            except SSFTError as error:
                if left_out is None or name == BASELINE:
                    raise
                out[name] = str(error)
                del candidates[name]
        bar.total -= (len(methods) - len(candidates)) * rounds * len(prompts)
        for _ in range(rounds):
            names = order.sample(list(candidates), len(candidates))
            finished = {name: _round(prompts, name, candidates[name].method, units, bar) for name in names}
            for name, done in finished.items():  # only whole rounds count: a pair needs both halves
                candidates[name].record.add(done, plain.ids or finished[BASELINE].ids()[: len(prompts)])
        for entry in candidates.values():
            if entry.kind != "yardstick":
                add_margins(adapted, prompts, plain.ids, entry.record.differences.values())
    except KeyboardInterrupt:
        if not plain.times:
            raise
        interrupted = True
        print(f"interrupted: the result covers {len(plain.times)} of {rounds} rounds", file=sys.stderr)
    finally:
        bar.close()
    results, baseline = summarise(candidates, units, categories, seed)
    return BenchResult(
        adapter=adapted.name,
        device=adapted.device,
        precision=adapted.precision,
        threads=torch.get_num_threads(),
        rows=len(prompts),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        rounds=len(plain.times),
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


def _peak_bytes(adapted: Any, entry: Candidate, batch: list[list[int]]) -> int | None:
    """Run a batch; most bytes of tensors meanwhile, None where they cannot be told."""
    if entry.kind == "yardstick":  # another program, whose memory is not torch's
        entry.method.run(batch)
        return None
    return peak_bytes(adapted.model.device, lambda: entry.method.run(batch))


def _round(prompts: Sequence[list[int]], name: str, method: Any, units: list[list[int]], bar: Any) -> Round:
    """What one method does in one round."""
    bar.set_postfix_str(name, refresh=False)
    done = Round.empty(len(prompts))
    for unit in units:
        batch = [prompts[index] for index in unit]
        begin = time.perf_counter()
        # The token ids that come back have been copied from the device, so nothing is left in its queue.
        outputs = method.run(batch)
        done.add(unit, time.perf_counter() - begin, outputs)
        bar.update(len(unit))
    return done
