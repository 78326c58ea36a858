"""The loop of timed rounds: ways of doing the same work, side by side on one machine.

Every way warms up, which does not count. Then every round runs every way once over all its units, in random order:
what slows the machine down for a while slows all ways down, and their ratio within the round stays.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Way:
    """One way of doing the work.

    run: does one unit and returns when the device has done it. units: of a round, such as batches of prompts. warm_up:
    what happens before anything counts; without it every unit is run once.
    """

    run: Callable[[Any], Any]
    units: Sequence[Any]
    warm_up: Callable[[], object] | None = None


@dataclass
class Timed:
    """Finished rounds of one way: [rounds][units] seconds, and what `run` returned."""

    seconds: list[list[float]] = field(default_factory=list)
    outputs: list[list[Any]] = field(default_factory=list)


def now(device: torch.device) -> float:
    """Seconds, once a GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed_rounds(
    ways: Mapping[str, Way],
    rounds: int,
    seed: int = 0,
    progress: bool = True,
    partial: bool = False,
    leave: Callable[[str, Exception, bool], None] | None = None,
) -> dict[str, Timed]:
    """Time every way `rounds` times; by name what ran to the end.

    Args:
        seed: of the order within the rounds.
        progress: a bar on stderr once it takes more than two seconds.
        partial: a Ctrl-C after the first round returns the rounds that are finished; else it ends the measurement.
        leave: hears of the error of a way, and whether it was in the warm-up; unless it raises, the others go on.
            Without it the error is raised.
    """
    running = dict(ways)
    finished: list[dict[str, tuple[list[float], list[Any]]]] = []
    order = random.Random(seed)
    total = (1 + rounds) * sum(len(way.units) for way in ways.values())
    bar = tqdm(total=total, unit="unit", delay=2, disable=None if progress else True, leave=False)

    def run(way: Way) -> tuple[list[float], list[Any]]:
        seconds, outputs = [], []
        for unit in way.units:
            begin = time.perf_counter()
            outputs.append(way.run(unit))
            seconds.append(time.perf_counter() - begin)
            bar.update()
        return seconds, outputs

    def warm_up(way: Way) -> object:
        if way.warm_up is None:
            return run(way)
        bar.update(len(way.units))
        return way.warm_up()

    def attempt(name: str, work: Callable[[Way], Any]) -> Any:
        """What `work` gives for a way; None if that failed and the way left."""
        bar.set_postfix_str(f"{name}, warm-up" if work is warm_up else name, refresh=False)
        try:
            return work(running[name])
        except Exception as error:
            if leave is None:
                raise
            leave(name, error, work is warm_up)
            del running[name]

    with bar:
        try:
            for name in ways:
                attempt(name, warm_up)
            for _ in range(rounds):
                finished.append({name: attempt(name, run) for name in order.sample(list(running), len(running))})
        except KeyboardInterrupt:
            if not (partial and finished):
                raise
    return {name: Timed([done[name][0] for done in finished], [done[name][1] for done in finished]) for name in running}
