"""The turn: one at a time, first come first served, given on whatever happens."""

import threading
import time

import pytest

from ssft.decoding.turn import Turn


def test_threads_never_overlap_and_take_turns():
    turn, inside, log = Turn(), [], []
    left = dict.fromkeys("abc", 30)

    def work(name):
        while left[name]:
            with turn:
                inside.append(name)
                left[name] -= 1
                # Nobody goes on before all who still want a turn stand in line, however slow the machine is.
                others = sum(bool(left[other]) for other in left if other != name)
                deadline = time.monotonic() + 10
                while len(turn._waiting) < others and time.monotonic() < deadline:
                    time.sleep(0.0001)
                assert inside == [name]
                inside.pop()
                log.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Round after round in the order of arrival.
    assert sorted(log[:3]) == ["a", "b", "c"]
    assert log == log[:3] * 30


def test_an_exception_gives_the_turn_on():
    turn = Turn()
    with pytest.raises(ZeroDivisionError), turn:
        raise ZeroDivisionError
    with turn:
        pass


@pytest.mark.parametrize("granted", [False, True], ids=["still_waiting", "just_granted"])
def test_an_interrupted_wait_leaves_no_hole(monkeypatch, granted):
    """A Ctrl-C while waiting: the queue forgets the waiter, or passes its turn on."""
    turn = Turn()
    turn.__enter__()
    real = threading.Lock

    class Interrupted:
        def __init__(self):
            self.lock, self.calls = real(), 0

        def acquire(self):
            self.calls += 1
            if self.calls == 2:
                if granted:
                    turn.__exit__()
                raise KeyboardInterrupt
            return self.lock.acquire()

        def release(self):
            self.lock.release()

    monkeypatch.setattr(threading, "Lock", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        turn.__enter__()
    monkeypatch.undo()
    if not granted:
        turn.__exit__()
    entered = threading.Event()
    threading.Thread(target=lambda: (turn.__enter__(), entered.set(), turn.__exit__())).start()
    assert entered.wait(5)
