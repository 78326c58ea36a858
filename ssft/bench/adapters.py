"""`ssft bench adapters`: what many adapters over one base cost in loading, switching, memory, and in batches.

The given folders are loaded again and again under other names, every time with tensors of its own, so that a few
adapters stand for as many as one asks for. Times of loading are from the page cache: the folders were just read.
"""

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from ssft.bench.adapters_batches import filled, loaded, measure_batches
from ssft.bench.rounds import now
from ssft.environment import versions
from ssft.errors import ConfigError
from ssft.lora.memory import process_bytes
from ssft.results.schema import AdaptersResult, ShelfPoint

SWITCHES = 100  # per timed block: one switch is hardly longer than a look at the clock
BLOCKS = 100
WINDOW = 5
"""Loads before a point whose median is told."""


def measure_adapters(
    model: Any,
    paths: Mapping[str, Path],
    prompts: Mapping[str, Sequence[list[int]]],
    *,
    max_new_tokens: int = 64,
    rounds: int = 3,
    seed: int = 0,
    loads: int = 100,
    progress: bool = True,
) -> AdaptersResult:
    """Measure the shelf, then batches.

    Args:
        model: a `MultiAdapterModel` with nothing loaded; nothing is loaded afterwards.
        paths, prompts: name -> folder, name -> token ids of that adapter's prompts. Prompts are repeated until they
            fill batches.
        rounds: paired rounds of each comparison of batches.
        seed: order within the rounds, and the bootstrap.
        loads: how many adapters to load.

    A Ctrl-C after the loading returns what is there, with `interrupted` set.
    """
    if not paths or rounds < 1 or loads < 2 or not all(prompts.get(name) for name in paths):
        raise ConfigError(
            f"{len(paths)} adapters, {rounds} rounds, {loads} loads, prompts for {', '.join(prompts) or 'none'}: a "
            "measurement needs an adapter, a round, two loads to switch between, and a prompt for every adapter"
        )
    # Before any measurement: a folder that does not fit the base is told at once.
    with loaded(model, paths):
        account = model.memory()
        facts = {name: _facts(entry, len(prompts[name])) for name, entry in model.adapters().items()}
    result = AdaptersResult(
        base=model.bank.fingerprint["id"],
        base_bytes=account["base"],
        device=model.device,
        precision=model.precision,
        threads=torch.get_num_threads(),
        adapters=facts,
        max_new_tokens=max_new_tokens,
        rounds=rounds,
        seed=seed,
        versions=versions(),
    )
    try:
        result.shelf = measure_shelf(model, paths, loads, progress)
        measure_batches(model, paths, {name: filled(prompts[name]) for name in paths}, result, progress)
    except KeyboardInterrupt:
        if not result.shelf:
            raise
        result.interrupted = True
        print("interrupted: the result holds what was measured until then", file=sys.stderr)
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
        "bytes": adapter.nbytes,
        "file_bytes": adapter.bundle.weights_bytes,
        "prompts": prompts,
    }


def measure_shelf(model: Any, paths: Mapping[str, Path], loads: int, progress: bool = True) -> list[ShelfPoint]:
    """Load `loads` adapters and delete them again: points with none, with two, with all, and with none again.

    One life of an adapter comes before, so that what only the first of all takes counts for nothing.
    """
    first = next(iter(paths))
    with loaded(model, {first: paths[first]}):
        model.set_adapter(first)
        model.generate([1], max_new_tokens=1)
    names: list[str] = []
    seconds: list[float] = []
    points = [_point(model, names, seconds)]
    with tqdm(total=loads, unit="adapter", delay=2, disable=None if progress else True, leave=False) as bar:
        for number, (name, path) in enumerate(islice(cycle(paths.items()), loads), start=1):
            begin = now(model.model.device)
            names.append(model.load_adapter(path, f"{name}#{number}"))
            seconds.append(now(model.model.device) - begin)
            bar.update()
            if number in {2, loads}:
                points.append(_point(model, names, seconds))
    for name in names:
        model.delete_adapter(name)
    return [*points, _point(model, [], [])]


def _point(model: Any, names: list[str], seconds: list[float]) -> ShelfPoint:
    """What is measured while the adapters `names` are loaded, which took so many seconds each."""
    turn = cycle(names[:1] + names[-1:])
    blocks = []
    for _ in range(BLOCKS if names else 0):
        order = [next(turn) for _ in range(SWITCHES)]
        begin = time.perf_counter()
        for name in order:
            model.set_adapter(name)
        blocks.append((time.perf_counter() - begin) / SWITCHES)
    model.set_adapter(None)
    gc.collect()
    device = model.model.device
    return ShelfPoint(
        loaded=len(names),
        load_ms=1e3 * median(seconds[-WINDOW:]) if seconds else None,
        switch_us=1e6 * median(blocks) if blocks else None,
        process_bytes=process_bytes(),
        allocated_bytes=torch.cuda.memory_allocated(device) if device.type == "cuda" else None,
        # By type: isinstance() would ask proxies and lazy modules, which may then do something.
        tensors=sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects()),
    )
