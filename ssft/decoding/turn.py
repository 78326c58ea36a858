"""`Turn`: a fair lock, by which threads that decode on one model take turns pass by pass."""

import threading
from collections import deque


class Turn:
    """First come, first served, as a context manager.

    `threading.Lock` may hand itself back to the thread that has just let go of it, again and again; a thread with a
    long request would then starve the others. Two passes at the same time gain nothing: one fills the device, and on
    a CPU two thread pools on the same cores slow each other down.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        try:
            gate.acquire()
        except BaseException:  # Ctrl-C while waiting: leave the queue, or hand on the turn that came meanwhile
            with self._mutex:
                if gate in self._waiting:
                    self._waiting.remove(gate)
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
