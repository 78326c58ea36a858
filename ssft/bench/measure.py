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
from ssft.bench.methods import REFERENCE, YARDSTICK
from ssft.bench.peak_memory import peak_bytes
from ssft.bench.rounds import Way, timed_rounds
from ssft.bench.summary import Record, summarise
from ssft.environment import versions
from ssft.errors import ConfigError, GenerationError, SSFTError
from ssft.results.schema import BenchResult
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
    temperature: float | None = None,
    form: str | None = None,
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
        temperature, form: for the result alone; the methods know how they choose tokens.

    A Ctrl-C after at least one finished round returns what is there, with `interrupted` set.
    """
    if not prompts or rounds < 1:
        raise ConfigError(f"{len(prompts)} prompts, {rounds} rounds: a measurement needs at least one of each")
    lengths = [len(prompt) for prompt in prompts]
    units = category_batches(lengths, batch_size, categories)
    peaks: dict[str, int | None] = {}
    out = dict(left_out or {})

    def size(unit: list[int]) -> int:
        return len(unit) * max(lengths[index] for index in unit)

    # What is compiled for the longest text is compiled with the longest prompt, before anything counts.
    longest = max(units, key=lambda unit: (max(lengths[index] for index in unit), len(unit)))
    smallest, largest = min(units, key=size), max(units, key=size)

    def way(name: str) -> Way:
        def run(unit: list[int]) -> Any:
            # The token ids that come back have been copied from the device, so nothing is left in its queue.
            outputs = methods[name].run([prompts[index] for index in unit])
            if len(outputs) != len(unit):
                raise GenerationError(f"the method {name} gave {len(outputs)} outputs for {len(unit)} prompts")
            return outputs

        def warm_up() -> None:
            run(longest)
            run(smallest)
            # The memory of a yardstick, which is another program, is not torch's.
            device = torch.device("meta") if methods[name].KIND == YARDSTICK else adapted.model.device
            peaks[name] = peak_bytes(device, lambda: run(largest))

        return Way(run, units, warm_up)

    def leave(name: str, error: Exception, warming_up: bool) -> None:
        """Go on without the method, if that is allowed."""
        allowed = isinstance(error, WARM_UP_ERRORS if warming_up else SSFTError)
        if left_out is None or name == REFERENCE or not allowed:
            raise error
        out[name] = str(error) if isinstance(error, SSFTError) else f"{type(error).__name__}: {error}"

    timed = timed_rounds({name: way(name) for name in methods}, rounds, seed, progress, partial=True, leave=leave)
    records = {name: Record(methods[name], units, done) for name, done in timed.items()}
    done_rounds = len(timed[REFERENCE].seconds)
    interrupted = done_rounds < rounds
    plain = records[REFERENCE].ids(0)
    compared = [record for record in records.values() if record.kind != YARDSTICK]
    for record in compared:
        record.find_differences(plain)
    try:
        for record in compared if not interrupted else ():
            add_margins(adapted, prompts, plain, record.differences.values())
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        print(f"interrupted: the result covers {done_rounds} of {rounds} rounds", file=sys.stderr)
    results, baseline = summarise(records, categories, seed)
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
        outputs=plain,
        adapter_sha256=weights_sha256(adapted),
        temperature=temperature,
        form=form,
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
