"""Where one decoding pass spends its time: timers around layers, head, draft tree, masks and cache of one decoder.

Timers nest, and each part is charged with its own time only, so the parts add up to the whole. The prompts' passes are
a part of their own and not in the milliseconds per pass.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from ssft.bench.result import Part, Profile
from ssft.bench.rounds import Way, timed_rounds
from ssft.decoding import engine
from ssft.decoding.cache import TreeCache
from ssft.runtime.batching import length_batches

PROMPT, BELOW, STREAMS, HEAD = "prompt passes", "layers below the streams", "layers with streams", "head"
TREE, MASKS, CACHE, REST = "draft tree (Python)", "masks (Python)", "cache compaction", "the rest"
PARTS = (BELOW, STREAMS, HEAD, TREE, MASKS, CACHE, REST)


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

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a timer around it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.start(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.stop()

        return timed


@contextmanager
def instrumented(decoder: Any, clock: Clock) -> Iterator[None]:
    """Timers on one decoder and on the functions that its loop calls; all of them are gone afterwards."""
    backbone = decoder.hooks.backbone
    layers = backbone.layers
    first = len(layers) - decoder.streams.config.num_msa_layers if decoder.streams is not None else None

    def begin_layers(*_: Any) -> None:
        clock.start(BELOW)

    def begin_streams(*_: Any) -> None:
        clock.stop()
        clock.start(STREAMS)

    def end_layers(*_: Any) -> None:
        clock.stop()

    with ExitStack() as stack:
        # Before the hooks that insert the streams and after those that take them out: both belong to the streams.
        hooks = [layers[0].register_forward_pre_hook(begin_layers, prepend=True)]
        if first is not None:
            hooks.append(layers[first].register_forward_pre_hook(begin_streams, prepend=True))
        hooks.append(layers[-1].register_forward_hook(end_layers))
        for hook in hooks:
            stack.callback(hook.remove)
        for owner, name, part in (
            (decoder, "_prompt_pass", PROMPT),
            (backbone, "logits", HEAD),
            (backbone, "finish", HEAD),
            (engine, "grow_tree", TREE),
            (engine, "accept_greedy", TREE),
            (engine, "stop_order", TREE),
            (engine, "tree_masks", MASKS),
        ):
            stack.enter_context(patch.object(owner, name, clock.wrap(part, getattr(owner, name))))
        for name in ("keep", "select"):
            timed = clock.wrap(CACHE, getattr(TreeCache, name))
            stack.enter_context(patch.object(TreeCache, name, timed))
        yield


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
        decoder = adapted.decoder(streaming=name == "streaming", tree=adapted.tree)
        clock = clocks[name] = Clock(synchronize)

        def decode(batch: list[list[int]]) -> Any:
            return decoder.generate(batch, max_new_tokens, adapted.eos_token_ids)

        def timed(batch: list[list[int]]) -> Any:
            with instrumented(decoder, clock):
                return clock.wrap(REST, decode)(batch)

        return Way(timed, batches, lambda: decode(batches[0]))

    names = ("plain", "streaming") if adapted.streams is not None else ("plain",)
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
