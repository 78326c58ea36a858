"""`ssft bench never-slower`: streaming beside plain decoding, on text that an adapter's streams know or do not know.

Five kinds of input for every adapter, each at batch 1 and in a batch: the prompts of its own task, those of another
adapter's task, chat questions, its own prompts with answers of a few tokens, and random token ids.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssft.bench.answers import encode_rows
from ssft.bench.measure import measure
from ssft.bench.methods import REFERENCE
from ssft.bench.suite import SuiteSettings
from ssft.tables import Column, Table, estimate

LEAST = 0.97
"""A speed-up below that is slower."""
SHORT = 8
"""Tokens of a short answer, at most."""
STREAMING = "streaming"


@dataclass
class Pace:
    """speedup, interval: of streaming over plain decoding, prompts included; see `MethodResult`. tokens_per_call: of
    streaming. identical: prompts whose text is plain's, of `rows`."""

    adapter: str
    kind: str
    batch_size: int
    rows: int
    speedup: float
    interval: tuple[float | None, float | None] | None
    tokens_per_call: float
    identical: int

    @property
    def passed(self) -> bool:
        """Whether streaming is fast enough."""
        return self.speedup >= LEAST


def inputs(
    adapted: Any,
    own: Sequence[dict[str, Any]],
    other: Sequence[dict[str, Any]],
    chat: Sequence[dict[str, Any]],
    settings: SuiteSettings,
) -> dict[str, tuple[list[list[int]], int]]:
    """Kind of input -> (prompts as token ids, most tokens of an answer)."""
    prompts, most = encode_rows(adapted, own, "its own prompts: "), settings.max_new_tokens
    draw, vocab_size = random.Random(settings.seed), adapted.hooks.backbone.vocab_size
    return {
        "own task": (prompts, most),
        "another task": (encode_rows(adapted, other, "another task's prompts: "), most),
        "chat": (encode_rows(adapted, chat, "chat: "), most),
        "short answers": (prompts, min(SHORT, most)),
        "random ids": ([[draw.randrange(vocab_size) for _ in prompt] for prompt in prompts], most),
    }


def measure_paces(
    adapted: Any, kinds: Mapping[str, tuple[list[list[int]], int]], settings: SuiteSettings
) -> list[Pace]:
    """Every kind of input at batch 1 and at the settings' batch size: plain and streaming in paired rounds."""
    found = []
    for kind, (prompts, most) in kinds.items():
        for size in sorted({1, settings.batch_size}):
            now = replace(settings, batch_size=size, max_new_tokens=most, methods=[REFERENCE, STREAMING])
            methods, _ = now.ready_methods(adapted, None)
            how: dict[str, Any] = {"rounds": now.rounds, "seed": now.seed, "progress": now.progress}
            result = measure(adapted, prompts, methods, max_new_tokens=most, batch_size=size, **how)
            if result.interrupted:
                raise KeyboardInterrupt
            one = result.methods[STREAMING]
            assert one.speedup is not None
            assert one.identical is not None
            measured = (one.speedup, one.speedup_interval, one.tokens_per_call, one.identical)
            found.append(Pace(adapted.active.name, kind, size, len(prompts), *measured))
    return found


def paces_table(paces: Sequence[Pace]) -> Table:
    """One line for every adapter, kind of input and batch size."""
    keys: list[Any] = ["adapter", "input", "batch"]
    found = [Column("streaming over plain", ".2f", "×"), Column("tokens per call", ".2f")]
    rows: list[list[Any]] = []
    for p in paces:
        same, ratio = f"{p.identical} of {p.rows}", estimate(p.speedup, p.interval)
        verdict = "PASS" if p.passed else "FAIL"
        rows.append([p.adapter, p.kind, p.batch_size, ratio, p.tokens_per_call, same, verdict])
    slow = {place: "wrong" for place, p in enumerate(paces) if not p.passed}
    title = "Streaming over plain decoding, prompts included"
    return Table(title, [*keys, *found, "same text", f"at least {LEAST}"], rows, keys=3, marks=slow)


def paces_sentence(paces: Sequence[Pace]) -> str:
    """The verdict in words."""
    slow = [f"{p.adapter} on {p.kind}, batch {p.batch_size}: {p.speedup:.2f}" for p in paces if not p.passed]
    if not slow:
        return (
            f"PASS: all {len(paces)} speed-ups are at least {LEAST}; the lowest is {min(p.speedup for p in paces):.2f}"
        )
    return f"FAIL: {len(slow)} of {len(paces)} speed-ups are below {LEAST}: {'; '.join(slow)}"
