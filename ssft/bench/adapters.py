"""`ssft bench adapters`: what serving many tasks over one base costs, section by section."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from ssft.bench.batching import length_batches
from ssft.bench.measure import versions
from ssft.bench.paired import PASSES, Batch, Comparison, PairedRunner, RowDifference, compare
from ssft.bench.shelf_account import Account, Growth, LoadTime, SwitchTime, measure_account, measure_shelf
from ssft.environment import describe_device
from ssft.errors import ConfigError

ROWS = 8
"""Rows of a batch where batches are mixed."""
COPIES = 4
SIZES = (1, 2, 4, 8)
SECTIONS = ("load", "account", "mixed", "batches")
"""What can be left out; `load` stands for the switch and the growth of the process too."""


@dataclass
class AdapterMemory:
    """Bytes of one adapter on the device, bytes of its safetensors files, and the first over the second."""

    bytes: int
    file_bytes: int
    ratio: float


@dataclass
class MemoryResult:
    """base: bytes of the base's weights; adapters: by name; growth: of the process over many loads."""

    base: int
    adapters: dict[str, AdapterMemory]
    growth: Growth | None = None


@dataclass
class MixedResult:
    """Batches of `ROWS` rows.

    routing: the first adapter on all rows against four copies of it, with tensors of their own, in turn; what is left
    is the cost of telling rows apart. low_rank: bare rows against the first adapter's, one token per pass and no row
    ending early. tasks: batches of one adapter each against the same rows in batches of all adapters, which also pays
    for prompts and answers of unequal length; None for a single adapter. identical of `rows`: rows of those last
    batches that equal what the row gives alone, decoded without speculation; differences: the others.
    """

    routing: Comparison
    low_rank: Comparison
    tasks: Comparison | None
    rows: int
    identical: int
    differences: list[RowDifference] = field(default_factory=list)


@dataclass
class BatchResult:
    """The first adapter's prompts in batches of `batch_size`; the comparison is of plain decoding and streaming."""

    batch_size: int
    tokens_per_call: float
    comparison: Comparison


@dataclass
class AdaptersResult:
    """All sections with what they depend on; its fields are the keys of `ssft bench adapters --json`.

    A section that was left out is None.
    """

    base: str
    device: str
    precision: str
    threads: int
    adapters: dict[str, dict[str, Any]]
    max_new_tokens: int
    rounds: int
    seed: int
    versions: dict[str, str]
    memory: MemoryResult
    switch: list[SwitchTime] | None = None
    load: LoadTime | None = None
    account: Account | None = None
    mixed: MixedResult | None = None
    batches: list[BatchResult] | None = None
    interrupted: bool = False


def measure_adapters(
    model: Any,
    paths: Mapping[str, Path],
    prompts: Mapping[str, Sequence[list[int]]],
    *,
    precision: str,
    max_new_tokens: int = 64,
    rounds: int = 3,
    seed: int = 0,
    loads: int = 100,
    account_rounds: int = 1000,
    skip: Sequence[str] = (),
    progress: bool = True,
) -> AdaptersResult:
    """Run every section that is not in `skip`.

    Args:
        model: a `MultiAdapterModel` with nothing loaded; nothing is loaded afterwards.
        paths, prompts: name -> folder, name -> token ids of that adapter's prompts. Prompts are repeated until they
            fill batches of `ROWS`.
        precision: of the base's weights, for the result.
        rounds: paired rounds of each comparison.
        seed: order within the rounds, and the bootstrap.
        loads, account_rounds: see `measure_shelf`, `measure_account`.

    A Ctrl-C after at least one finished section returns what is there, with `interrupted` set.
    """
    if unknown := sorted(set(skip) - set(SECTIONS)):
        raise ConfigError(f"{', '.join(unknown)}: no section; there are {', '.join(SECTIONS)}")
    if not paths or rounds < 1 or not all(prompts.get(name) for name in paths):
        raise ConfigError(
            f"{len(paths)} adapters, {rounds} rounds, prompts for {', '.join(prompts) or 'none'}: a measurement needs "
            "an adapter, a round, and a prompt for every adapter"
        )
    rows = {name: _filled(prompts[name]) for name in paths}
    first = next(iter(paths))
    # Before any measurement: a folder that does not fit the base is told at once.
    with loaded(model, paths):
        facts = {name: _facts(adapter, len(prompts[name])) for name, adapter in model.adapters().items()}
        memory = _memory(model)
    result = AdaptersResult(
        base=model.bank.fingerprint["id"],
        device=describe_device(model.model.device),
        precision=precision,
        threads=torch.get_num_threads(),
        adapters=facts,
        max_new_tokens=max_new_tokens,
        rounds=rounds,
        seed=seed,
        versions=versions(),
        memory=memory,
    )
    runner = PairedRunner(model, max_new_tokens, rounds, seed, progress)

    def load() -> None:
        result.switch, result.load, memory.growth = measure_shelf(model, paths, rows[first][0], loads, progress)

    def account() -> None:
        starts = {name: rows[name][0] for name in paths}
        result.account = measure_account(model, paths, starts, account_rounds, progress)

    def mixed() -> None:
        result.mixed = measure_mixed(runner, paths, rows)

    def batches() -> None:
        with loaded(model, {first: paths[first]}):
            result.batches = [measure_batches(runner, first, rows[first], size) for size in SIZES]

    sections: dict[str, Callable[[], None]] = {"load": load, "account": account, "mixed": mixed, "batches": batches}
    done: list[str] = []
    try:
        for name in SECTIONS:
            if name not in skip:
                sections[name]()
                done.append(name)
    except KeyboardInterrupt:
        if not done:
            raise
        result.interrupted = True
        print(f"interrupted: the result covers {', '.join(done)}", file=sys.stderr)
    finally:
        for name in model.adapters():
            model.delete_adapter(name)
    return result


def measure_mixed(
    runner: PairedRunner, paths: Mapping[str, Path], rows: Mapping[str, Sequence[list[int]]]
) -> MixedResult:
    """See `MixedResult`; `rows`: name -> prompts that fill batches of `ROWS`."""
    first = next(iter(paths))
    own, count = rows[first], len(rows[first])
    copies = {f"{first}#{number}": paths[first] for number in range(COPIES)}
    one = in_batches(own, [first] * count)
    with loaded(runner.model, {first: paths[first], **copies}):
        four = in_batches(own, list(islice(cycle(copies), count)))
        routing = runner.compare({"one adapter": one, "four copies": four})
        bare = in_batches(own, [None] * count)
        low_rank = runner.compare(
            {"bare base": bare, "one adapter": one}, PASSES, same_rows=False, speculate=False, ignore_eos=True
        )
    with loaded(runner.model, paths):
        # The next prompt of the next adapter, and so on: the rows of the batches of one adapter, in another order.
        longest = max(map(len, rows.values()))
        order = [(name, number) for number in range(longest) for name in paths if number < len(rows[name])]
        mixed = in_batches([rows[name][number] for name, number in order], [name for name, _ in order])
        tasks = None
        if len(paths) > 1:
            apart = [batch for name in paths for batch in in_batches(rows[name], [name] * len(rows[name]))]
            tasks = runner.compare({"one task per batch": apart, "mixed": mixed}, same_rows=False)
        differences = runner.differences(mixed, [number for _, number in order])
    return MixedResult(routing, low_rank, tasks, len(order), len(order) - len(differences), differences)


def measure_batches(runner: PairedRunner, name: str, prompts: Sequence[list[int]], size: int) -> BatchResult:
    """Plain decoding against streaming with the loaded adapter `name`; prompts of like length stand together."""
    units = length_batches([len(prompt) for prompt in prompts], size)
    batches: list[Batch] = [([prompts[row] for row in unit], [name] * len(unit)) for unit in units]
    timed = runner.time({"plain": runner.way(batches, speculate=False), "streaming": runner.way(batches)})
    streaming = timed["streaming"]
    return BatchResult(size, streaming.tokens() / streaming.calls(), compare(timed, seed=runner.seed))


def in_batches(prompts: Sequence[list[int]], names: Sequence[str | None]) -> list[Batch]:
    """Batches of `ROWS`, in the given order."""
    starts = range(0, len(prompts), ROWS)
    return [(list(prompts[start : start + ROWS]), list(names[start : start + ROWS])) for start in starts]


@contextmanager
def loaded(model: Any, paths: Mapping[str, Path]) -> Iterator[None]:
    """These adapters, name -> folder, are loaded inside."""
    names: list[str] = []
    try:
        for name, path in paths.items():
            names.append(model.load_adapter(path, name))
        yield
    finally:
        for name in names:
            model.delete_adapter(name)


def _filled(prompts: Sequence[list[int]]) -> list[list[int]]:
    """The prompts, repeated from the first until they fill batches of `ROWS`."""
    return list(islice(cycle(prompts), -(-len(prompts) // ROWS) * ROWS))


def _facts(adapter: Any, prompts: int) -> dict[str, Any]:
    streams = adapter.bundle.stream_config
    return {
        "path": str(adapter.bundle.path),
        "r": adapter.bundle.loras[0].config["r"],
        "streams": None if streams is None else streams.stream_dict(),
        "tree": None if streams is None else adapter.tree.tree_dict(),
        "prompts": prompts,
    }


def _memory(model: Any) -> MemoryResult:
    account = model.memory()
    adapters = {
        name: AdapterMemory(entry["bytes"], entry["file_bytes"], entry["bytes"] / entry["file_bytes"])
        for name, entry in account["adapters"].items()
    }
    return MemoryResult(account["base"], adapters)
