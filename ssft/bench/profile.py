"""Where one decoding pass spends its time: timers around layers, head, draft tree, masks and cache.

Timers nest, and each part is charged with its own time only, so the parts add up to the whole. The prompts' passes are
a part of their own and not in the milliseconds per pass.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ssft.bench.rounds import Way, now, timed_rounds
from ssft.decoding.grammar.parser import GRAMMAR
from ssft.decoding.scheduler import CACHE, DRAFT
from ssft.decoding.step import HEAD, LAYERS, MASKS, PROMPT
from ssft.results.schema import Part, Profile
from ssft.runtime.batching import length_batches
from ssft.tables import Column, Table

STREAMS, REST = "layers with streams", "the rest"
PARTS = (LAYERS, STREAMS, HEAD, DRAFT, MASKS, CACHE, REST)


class Clock:
    """Nested timers. A part's time excludes what was timed inside it, except inside the prompts' passes."""

    def __init__(self, device: torch.device) -> None:
        """`device`: what it waits for, since a GPU works asynchronously."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._device = device
        self._stack: list[tuple[str, float]] = []  # part, begin less the seconds timed inside

    def start(self, part: str) -> None:
        """Enter a part; whatever happens inside a prompt's pass belongs to it."""
        if any(outer == PROMPT for outer, _ in self._stack):
            part = PROMPT
        self._stack.append((part, now(self._device)))

    def stop(self) -> None:
        """Leave the part that was entered last."""
        part, begin = self._stack.pop()
        spent = now(self._device) - begin
        self.seconds[part] += spent
        self.calls[part] += 1
        for place, (outer, outer_begin) in enumerate(self._stack):
            self._stack[place] = (outer, outer_begin + spent)

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
    if streaming:
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
    adapted: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int = 1,
    progress: bool = True,
    form: Mapping[str, str] | None = None,
) -> dict[str, Profile]:
    """`plain`, and `streaming` where the adapter has streams: one round over the prompts with timers.

    form: as `SuiteSettings` has it; the grammar is then a part of its own.

    A pass of a batch counts once. Timers synchronise a GPU, so that the sum is above what `ssft bench` measures there.
    """
    batches = [[prompts[index] for index in batch] for batch in length_batches([len(p) for p in prompts], batch_size)]
    names = ["plain", "streaming"] if adapted.active.streams is not None else ["plain"]
    clocks = {name: Clock(adapted.model.device) for name in names}

    def way(name: str) -> Way:
        streaming = name == "streaming"

        def decode(batch: list[list[int]]) -> Any:
            return adapted.complete(batch, max_new_tokens=max_new_tokens, speculate=streaming, **(form or {}))

        def timed(batch: list[list[int]]) -> Any:
            with instrumented(adapted, clocks[name], streaming), clocks[name].part(REST):
                return decode(batch)

        return Way(timed, batches, lambda: decode(batches[0]))

    done = timed_rounds({name: way(name) for name in names}, 1, progress=progress)
    found = {}
    for name, clock in clocks.items():
        tokens = sum(len(row.token_ids) for batch in done[name].outputs[0] for row in batch)
        passes = clock.calls[MASKS]
        milliseconds = {part: 1e3 * clock.seconds[part] for part in (*PARTS, *([GRAMMAR] if form else []))}
        total = sum(milliseconds.values())
        found[name] = Profile(
            passes=passes,
            tokens=tokens,
            ms_per_pass=total / max(passes, 1),
            ms_per_token=total / max(tokens - len(prompts), 1),
            prompt_ms=1e3 * clock.seconds[PROMPT] / len(batches),
            parts={part: Part(spent / max(passes, 1), spent / total) for part, spent in milliseconds.items()},
        )
    return found


def profile_table(profiles: Mapping[str, Profile]) -> Table:
    """One row per part of a pass, then the whole: for every way of decoding milliseconds and share."""
    ways = list(profiles.values())
    parts = ways[0].parts
    rows = [[part, *(cell for way in ways for cell in (way.parts[part].ms, way.parts[part].share))] for part in parts]
    for title, key in (("whole pass", "ms_per_pass"), ("per token", "ms_per_token"), ("prompts' pass", "prompt_ms")):
        rows.append([title, *(cell for way in ways for cell in (getattr(way, key), None))])
    columns = [column for name in profiles for column in (Column(name, ".3f"), Column("share", ".0%"))]
    return Table("", ["ms per pass", *columns], rows)
