"""`ssft bench adapters`: what serving many tasks over one base costs, section by section."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssft.bench.adapters_batches import BatchRunner, filled, loaded, measure_batches, measure_mixed
from ssft.bench.adapters_shelf import measure_account, measure_shelf
from ssft.bench.result import AdapterMemory, AdaptersResult, MemoryResult
from ssft.environment import describe_device, versions
from ssft.errors import ConfigError

SIZES = (1, 2, 4, 8)
SECTIONS = ("load", "account", "mixed", "batches")
"""What can be left out; `load` stands for the switch and the growth of the process too."""


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
    rows = {name: filled(prompts[name]) for name in paths}
    first = next(iter(paths))
    # Before any measurement: a folder that does not fit the base is told at once.
    with loaded(model, paths):
        facts = {name: _facts(adapter, len(prompts[name])) for name, adapter in model.adapters().items()}
        account = model.memory()
    memory = MemoryResult(
        account["base"],
        {
            name: AdapterMemory(entry["bytes"], entry["file_bytes"], entry["bytes"] / entry["file_bytes"])
            for name, entry in account["adapters"].items()
        },
    )
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
    runner = BatchRunner(model, max_new_tokens, rounds, seed, progress)

    def load() -> None:
        result.switch, result.load, memory.growth = measure_shelf(model, paths, rows[first][0], loads, progress)

    def account_of_lives() -> None:
        starts = {name: rows[name][0] for name in paths}
        result.account = measure_account(model, paths, starts, account_rounds, progress)

    def mixed() -> None:
        result.mixed = measure_mixed(runner, paths, rows)

    def batches() -> None:
        with loaded(model, {first: paths[first]}):
            result.batches = [measure_batches(runner, first, rows[first], size) for size in SIZES]

    sections = dict(zip(SECTIONS, (load, account_of_lives, mixed, batches), strict=True))
    done: list[str] = []
    try:
        for name, section in sections.items():
            if name not in skip:
                section()
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


def _facts(adapter: Any, prompts: int) -> dict[str, Any]:
    streams = adapter.bundle.stream_config
    return {
        "path": str(adapter.bundle.path),
        "r": adapter.bundle.loras[0].config["r"],
        "streams": None if streams is None else streams.stream_dict(),
        "tree": None if streams is None else adapter.tree.tree_dict(),
        "prompts": prompts,
    }
