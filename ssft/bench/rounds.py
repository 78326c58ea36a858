"""The loop of timed rounds: ways of doing the same work, side by side on one machine.

Every way warms up, which does not count. Then every round runs every way once over all its units, in random order:
what slows the machine down for a while slows all ways down, and their ratio within the round stays.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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


class Rounds:
    """Ways under measurement."""

    def __init__(self, ways: Mapping[str, Way], rounds: int, seed: int = 0, progress: bool = True) -> None:
        """`seed`: of the order within the rounds; `progress`: a bar on stderr once it takes more than two seconds."""
        self.ways = dict(ways)
        self.rounds = rounds
        self.interrupted = False
        self._order = random.Random(seed)
        self._steps: Counter[str] = Counter()  # of the bar, by way; the warm-up counts as a round
        total = (1 + rounds) * sum(len(way.units) for way in ways.values())
        self._bar = tqdm(total=total, unit="unit", delay=2, disable=None if progress else True, leave=False)

    def run(self, leave: Callable[[str, Exception, bool], None] | None = None) -> dict[str, Timed]:
        """Time every way `rounds` times; by name what ran to the end.

        `leave` hears of the error of a way, and whether it was in the warm-up; unless it raises, the others go on.
        Without it the error is raised. Only whole rounds count: after Ctrl-C those that are finished are returned, and
        `interrupted` is set; before the first is finished, it ends the run.
        """
        finished: list[dict[str, tuple[list[float], list[Any]]]] = []
        with self._bar:
            try:
                for name in list(self.ways):
                    self._attempt(name, self._warm_up, leave)
                for _ in range(self.rounds):
                    done = {}
                    for name in self._order.sample(list(self.ways), len(self.ways)):
                        if (result := self._attempt(name, self._round, leave)) is not None:
                            done[name] = result
                    finished.append(done)
            except KeyboardInterrupt:
                if not finished:
                    raise
                self.interrupted = True
        return {
            name: Timed([done[name][0] for done in finished], [done[name][1] for done in finished])
            for name in self.ways
        }

    def _attempt(self, name: str, work: Callable[[str], Any], leave: Any) -> Any:
        """What `work` gives for a way; None if that failed and the way left."""
        warming_up = work == self._warm_up
        self._bar.set_postfix_str(f"{name}, warm-up" if warming_up else name, refresh=False)
        try:
            return work(name)
        except Exception as error:
            if leave is None:
                raise
            leave(name, error, warming_up)
            self._bar.total -= (1 + self.rounds) * len(self.ways.pop(name).units) - self._steps[name]
            return None

    def _warm_up(self, name: str) -> None:
        way = self.ways[name]
        if way.warm_up is None:
            self._round(name)
        else:
            way.warm_up()
            self._tick(name, len(way.units))

    def _round(self, name: str) -> tuple[list[float], list[Any]]:
        seconds, outputs = [], []
        for unit in self.ways[name].units:
            begin = time.perf_counter()
            outputs.append(self.ways[name].run(unit))
            seconds.append(time.perf_counter() - begin)
            self._tick(name, 1)
        return seconds, outputs

    def _tick(self, name: str, steps: int) -> None:
        self._steps[name] += steps
        self._bar.update(steps)


def timed_rounds(ways: Mapping[str, Way], rounds: int, seed: int = 0, progress: bool = True) -> dict[str, Timed]:
    """All `rounds` of every way; an error or Ctrl-C ends the measurement."""
    measurement = Rounds(ways, rounds, seed, progress)
    timed = measurement.run()
    if measurement.interrupted:
        raise KeyboardInterrupt
    return timed
