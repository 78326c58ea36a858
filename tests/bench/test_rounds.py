"""The loop of timed rounds: order, warm-up, ways that leave, interruption, and the bar."""

import pytest

from ssft.bench import rounds as module
from ssft.bench.rounds import Way, timed_rounds


class Clock:
    """Passes one second in each unit, ten in the warm-up."""

    now = 0

    def perf_counter(self):
        return self.now


def ways(ran, names="ab", units=(0, 1), fail=None):
    """Ways that log (name, unit); `fail(number)` may raise in the run of that number, counted from 0."""

    def run(name, unit):
        number = len(ran)
        ran.append((name, unit))
        if fail is not None:
            fail(number)
        return f"{name}{unit}:{number}"

    return {name: Way(lambda unit, name=name: run(name, unit), units) for name in names}


def test_every_round_has_every_way_after_a_warm_up_that_does_not_count():
    ran = []
    timed = timed_rounds(ways(ran), 20, seed=3, progress=False)
    assert ran[:4] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    pairs = ["".join(name for name, _ in ran[at : at + 4]) for at in range(4, len(ran), 4)]
    assert len(pairs) == 20
    assert set(pairs) == {"aabb", "bbaa"}
    for name, done in timed.items():
        assert [len(done.seconds), len(done.outputs)] == [20, 20]
        assert all(len(seconds) == 2 for seconds in done.seconds)
        assert all([output[:2] for output in outputs] == [f"{name}0", f"{name}1"] for outputs in done.outputs)
    assert min(int(output[3:]) for done in timed.values() for outputs in done.outputs for output in outputs) == 4


def test_the_seed_decides_the_order():
    orders = []
    for seed in (1, 1, 2):
        ran = []
        timed_rounds(ways(ran), 12, seed, progress=False)
        orders.append(ran)
    assert orders[0] == orders[1] != orders[2]


def test_seconds_are_those_of_each_unit(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)

    def run(unit):
        clock.now += unit

    timed = timed_rounds({"a": Way(run, (3, 5), lambda: run(10))}, 2, progress=False)
    assert timed["a"].seconds == [[3, 5], [3, 5]]
    assert clock.now == 10 + 2 * 8


@pytest.mark.parametrize("stop", range(4, 16))
def test_an_interruption_leaves_whole_rounds(stop):
    def interrupt(number):
        if number == stop:
            raise KeyboardInterrupt

    if stop < 8:  # warm-up and first round
        with pytest.raises(KeyboardInterrupt):
            timed_rounds(ways([], fail=interrupt), 3, progress=False, partial=True)
        return
    timed = timed_rounds(ways([], fail=interrupt), 3, progress=False, partial=True)
    assert {len(part) for done in timed.values() for part in (done.seconds, done.outputs)} == {1 if stop < 12 else 2}
    with pytest.raises(KeyboardInterrupt):
        timed_rounds(ways([], fail=interrupt), 3, progress=False)


@pytest.mark.parametrize("fails_at", [None, 0, 1, 3, 4, 7, 9, 15])
def test_a_way_that_fails_leaves(fails_at):
    def fail(number):
        if number == fails_at:
            raise ValueError("no luck")

    ran, heard = [], []
    timed = timed_rounds(ways(ran, fail=fail), 3, leave=lambda *told: heard.append(told))
    assert {len(done.seconds) for done in timed.values()} == {3}
    if fails_at is None:
        assert (list(timed), heard) == (["a", "b"], [])
        return
    ((name, error, warming_up),) = heard
    assert name == ran[fails_at][0]
    assert (str(error), warming_up) == ("no luck", fails_at < 4)
    assert list(timed) == [other for other in "ab" if other != name]
    with pytest.raises(ValueError, match="no luck"):
        timed_rounds(ways([], fail=fail), 3)
