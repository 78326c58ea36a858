"""Where one decoding pass spends its time: timers around layers, head, draft tree, masks and cache.

Timers nest, and each part is charged with its own time only, so the parts add up to the whole. The prompts' passes are
a part of their own and not in the milliseconds per pass.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ssft.bench.result import Part, Profile
from ssft.bench.rounds import Way, timed_rounds
from ssft.decoding.scheduler import CACHE, DRAFT
from ssft.decoding.step import HEAD, LAYERS, MASKS, PROMPT
from ssft.runtime.batching import length_batches

STREAMS, REST = "layers with streams", "the rest"
PARTS = (LAYERS, STREAMS, HEAD, DRAFT, MASKS, CACHE, REST)


class Clock:
    """Nested timers. A part's time excludes what was timed inside it, except inside the prompts' passes."""

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        """`synchronize` waits for a device that works asynchronously."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._synchronize = synchronize
        self._stack: list[tuple[str, float, float]] = []  # part, begin, seconds timed inside

    def now(self) -> float:
        """Seconds, once the device has done what was asked of it."""
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()

    def start(self, part: str) -> None:
        """Enter a part; whatever happens inside a prompt's pass belongs to it."""
        if any(outer == PROMPT for outer, _, _ in self._stack):
            part = PROMPT
        self._stack.append((part, self.now(), 0.0))

    def stop(self) -> None:
        """Leave the part that was entered last."""
        part, begin, inside = self._stack.pop()
        spent = self.now() - begin
        self.seconds[part] += spent - inside
        self.calls[part] += 1
        if self._stack:
            outer, outer_begin, outer_inside = self._stack[-1]
            self._stack[-1] = (outer, outer_begin, outer_inside + spent)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A timer around what happens inside, as `Step.timer` wants it."""
        self.start(name)
        try:
            yield
        finally:
            self.stop()


@contextmanager
def instrumented(adapted: Any, clock: Clock, streaming: bool) -> Iterator[None]:
    """The model's passes inside are timed by `clock`, the layers with streams apart from those below."""
    step, layers, streams = adapted.step, adapted.hooks.backbone.layers, adapted.active.streams
    before, step.timer = step.timer, clock.part
    handles = []
    if streaming and streams is not None:
        first = layers[len(layers) - streams.config.num_msa_layers]
        # Before the hooks that insert the streams and after those that take them out: both belong to the streams.
        handles.append(first.register_forward_pre_hook(lambda *_: clock.start(STREAMS), prepend=True))
        handles.append(layers[-1].register_forward_hook(lambda *_: clock.stop()))
    try:
        yield
    finally:
        step.timer = before
        for handle in handles:
            handle.remove()


def profile(
    adapted: Any, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int = 1, progress: bool = True
) -> dict[str, Profile]:
    """`plain`, and `streaming` where the adapter has streams: one round over the prompts with timers.

    A pass of a batch counts once. Timers synchronise a GPU, so that the sum is above what `ssft bench` measures there.
    """
    batches = [[prompts[index] for index in batch] for batch in length_batches([len(p) for p in prompts], batch_size)]
    synchronize = torch.cuda.synchronize if adapted.model.device.type == "cuda" else None
    clocks: dict[str, Clock] = {}

    def way(name: str) -> Way:
        clock = clocks[name] = Clock(synchronize)
        streaming = name == "streaming"

        def decode(batch: list[list[int]]) -> Any:
            return adapted.complete(batch, max_new_tokens=max_new_tokens, speculate=streaming)

        def timed(batch: list[list[int]]) -> Any:
            with instrumented(adapted, clock, streaming), clock.part(REST):
                return decode(batch)

        return Way(timed, batches, lambda: decode(batches[0]))

    names = ("plain", "streaming") if adapted.active.streams is not None else ("plain",)
    done = timed_rounds({name: way(name) for name in names}, 1, progress=progress)
    found = {}
    for name, clock in clocks.items():
        tokens = sum(len(row.token_ids) for batch in done[name].outputs[0] for row in batch)
        found[name] = _result(clock, tokens, len(prompts), len(batches))
    return found


def _result(clock: Clock, tokens: int, rows: int, batches: int) -> Profile:
    """What a clock tells of `rows` prompts in `batches` batches with `tokens` tokens."""
    passes = clock.calls[MASKS]
    total = sum(clock.seconds[part] for part in PARTS)
    return Profile(
        passes=passes,
        tokens=tokens,
        ms_per_pass=1e3 * total / max(passes, 1),
        ms_per_token=1e3 * total / max(tokens - rows, 1),
        prompt_ms=1e3 * clock.seconds[PROMPT] / batches,
        parts={
            part: Part(1e3 * clock.seconds[part] / max(passes, 1), clock.seconds[part] / total if total else 0.0)
            for part in PARTS
        },
    )


def table_rows(profiles: Mapping[str, Profile]) -> list[list[str]]:
    """One row per part of a pass, then the whole: for every way of decoding milliseconds and share."""
    ways = profiles.values()
    rows = [
        [part, *(cell for way in ways for cell in (f"{way.parts[part].ms:.3f}", f"{way.parts[part].share:.0%}"))]
        for part in PARTS
    ]
    totals = (("whole pass", "ms_per_pass"), ("per token", "ms_per_token"), ("prompts' pass", "prompt_ms"))
    return rows + [[title, *(c for way in ways for c in (f"{getattr(way, key):.3f}", ""))] for title, key in totals]
