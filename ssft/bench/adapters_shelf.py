"""What keeping many adapters costs: switching, loading, memory, and a long life of loading and deleting.

The given folders are loaded again and again under other names, every time with tensors of its own, so that a few
adapters stand for as many as one asks for. Times of loading are from the page cache: the folders were just read.
"""

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ssft.bench.result import Account, AccountPoint, Growth, LoadTime, SwitchTime
from ssft.errors import ConfigError
from ssft.lora.memory import process_bytes

SWITCHES = 100  # per timed block: one switch is hardly longer than a look at the clock
BLOCKS = 100
FIRST_TOKENS = 9
WINDOW = 5
SHORT = 16
"""Tokens of a prompt that is to cost little: where a pass is only made so that the adapter is used."""
ACCOUNT_TOKENS = 4
WARM_UP_SHARE = 20
"""One round in so many is warm-up of the account: until then allocators and caches take what they will keep."""


def measure_shelf(
    model: Any,
    paths: Mapping[str, Path],
    prompt: Sequence[int],
    loads: int,
    progress: bool = True,
) -> tuple[list[SwitchTime], LoadTime, Growth]:
    """Load `loads` adapters, time that and the switching, and delete them again.

    Args:
        model: a `MultiAdapterModel` with nothing loaded.
        paths: name -> folder of the given adapters.
        prompt: token ids, for the first token after a switch.
        loads: how many to load, at least two.
    """
    if loads < 2:
        raise ConfigError(f"{loads} adapters: a switch needs two; raise --adapters")
    short = list(prompt[:SHORT])
    _life(model, next(iter(paths)), next(iter(paths.values())), short)
    names: list[str] = []
    seconds: list[float] = []
    file_bytes = 0
    few: list[SwitchTime] = []
    before = _point(model, 0)
    with tqdm(total=loads, unit="adapter", delay=2, disable=None if progress else True, leave=False) as bar:
        for number, (name, path) in enumerate(islice(cycle(paths.items()), loads)):
            begin = time.perf_counter()
            names.append(model.load_adapter(path, f"{name}#{number}"))
            _synchronize(model)
            seconds.append(time.perf_counter() - begin)
            file_bytes += model.adapters()[names[-1]].bundle.weights_bytes
            if number == 1:
                few.append(_switch_time(model, (names[0], names[1]), short))
            bar.update()
    after = _point(model, loads)
    many = _switch_time(model, (names[0], names[-1]), short)
    for name in names[2:]:
        model.delete_adapter(name)
    # Once more with two, so that a machine that got slower or faster meanwhile does not look like a cost of many.
    few.append(_switch_time(model, (names[0], names[1]), short))
    for name in names[:2]:
        model.delete_adapter(name)
    pair = SwitchTime(
        2, statistics.median(t.microseconds for t in few), statistics.median(t.first_token_ms for t in few)
    )
    milliseconds = [1e3 * value for value in seconds]
    load = LoadTime(
        loads,
        statistics.median(milliseconds[1 : 1 + WINDOW]),
        statistics.median(milliseconds[-WINDOW:]),
        statistics.median(milliseconds),
    )
    process = _difference(after.process_bytes, before.process_bytes)
    allocated = _difference(after.allocated_bytes, before.allocated_bytes)
    growth = Growth(
        loads=loads,
        file_bytes=file_bytes,
        process_bytes=process,
        process_ratio=None if process is None else process / file_bytes,
        allocated_bytes=allocated,
        allocated_ratio=None if allocated is None else allocated / file_bytes,
    )
    return [pair, many], load, growth


def measure_account(
    model: Any, paths: Mapping[str, Path], prompts: Mapping[str, Sequence[int]], rounds: int, progress: bool = True
) -> Account:
    """Load an adapter, set it, generate a few tokens, delete it; `rounds` times, the given adapters in turn.

    Args:
        model: a `MultiAdapterModel` with nothing loaded.
        paths, prompts: name -> folder, name -> token ids, cut to `SHORT`.
        rounds: at least three, one for each point of the account.
    """
    if rounds < 3:
        raise ConfigError(f"{rounds} rounds: the account compares three points of time; raise --account-rounds")
    warm = max(1, rounds // WARM_UP_SHARE)
    at = {warm, (warm + rounds) // 2, rounds}
    points = []
    with tqdm(total=rounds, unit="round", delay=2, disable=None if progress else True, leave=False) as bar:
        for number, (name, path) in enumerate(islice(cycle(paths.items()), rounds), start=1):
            _life(model, name, path, list(prompts[name][:SHORT]))
            if number in at:
                points.append(_point(model, number))
            bar.update()
    first, middle, last = points
    process = _difference(last.process_bytes, first.process_bytes)
    return Account(
        rounds=rounds,
        warm=first,
        middle=middle,
        end=last,
        process_growth=process,
        process_growth_per_round=None if process is None else process / (rounds - warm),
        allocated_growth=_difference(last.allocated_bytes, first.allocated_bytes),
        tensor_growth=last.tensors - first.tensors,
    )


def _life(model: Any, name: str, path: Path, prompt: list[int]) -> None:
    """One adapter from load to delete."""
    name = model.load_adapter(path, f"{name}#passing")
    model.set_adapter(name)
    model.generate(prompt, max_new_tokens=ACCOUNT_TOKENS)
    model.delete_adapter(name)


def _switch_time(model: Any, names: tuple[str, str], prompt: list[int]) -> SwitchTime:
    """Switch to and fro between two resident adapters."""
    turn = cycle(names)
    blocks = []
    for _ in range(BLOCKS):
        order = [next(turn) for _ in range(SWITCHES)]
        begin = time.perf_counter()
        for name in order:
            model.set_adapter(name)
        blocks.append((time.perf_counter() - begin) / SWITCHES)
    tokens = []
    for name in [names[1], *(next(turn) for _ in range(FIRST_TOKENS))]:
        begin = time.perf_counter()
        model.set_adapter(name)
        model.generate(prompt, max_new_tokens=1)
        tokens.append(time.perf_counter() - begin)
    model.set_adapter(None)
    loaded = len(model.adapters())
    # The first token is warm-up.
    return SwitchTime(loaded, 1e6 * statistics.median(blocks), 1e3 * statistics.median(tokens[1:]))


def _point(model: Any, number: int) -> AccountPoint:
    gc.collect()
    device = model.model.device
    return AccountPoint(
        round=number,
        process_bytes=process_bytes(),
        allocated_bytes=torch.cuda.memory_allocated(device) if device.type == "cuda" else None,
        # By type: isinstance() would ask proxies and lazy modules, which may then do something.
        tensors=sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects()),
    )


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _synchronize(model: Any) -> None:
    if model.model.device.type == "cuda":
        torch.cuda.synchronize(model.model.device)
