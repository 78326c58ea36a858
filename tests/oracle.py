"""What a model says by transformers' own `generate`, and drafts of it that are never, sometimes or always right."""

import functools
import math
import random
from types import SimpleNamespace

import torch
from conftest import TINY, VOCABULARY, random_ids, with_adapter
from decoder import Decoder

from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.scheduler import Scheduler
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

GAMMA, TOP_K = 3, 2
TOKENS = 22
ALL = [0, 1, 2]
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 4, 15)]
DRAFTS = ["never", "sometimes", "always"]
ROWS = {"batch1": [1], "batch3": ALL}
ENDINGS = ["budget", "eos"]


def generate(model, prompt, tokens, eos=()):
    """transformers' own greedy continuation."""
    ids = torch.tensor([prompt])
    model.generation_config.eos_token_id = sorted(eos) or None
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


def adapted(model, seed=1, texts=None, config=None, targets="all-linear"):
    """An adapted model with hooks, and what it says without: longer than any test asks, so that oracles can look on."""
    model = with_adapter(model, config or StreamConfig(GAMMA, 2), seed=seed, targets=targets)
    texts = texts or [generate(model, prompt, TOKENS + GAMMA) for prompt in PROMPTS]
    hooks = StreamHooks(model)
    return SimpleNamespace(model=model, hooks=hooks, streams=streams_of(model), texts=texts)


@functools.cache
def shared(architecture):
    """The subject of most tests, which none of them changes."""
    return adapted(TINY[architecture]())


def first_seen(text):
    """Places in `text` whose token did not come before."""
    return [i for i, token in enumerate(text) if token not in text[:i]]


def late_eos(subject):
    """The token that row 1 says last for the first time: an EOS that ends it after some passes."""
    text = subject.texts[1]
    return {text[first_seen(text[:17])[-1]]}


def cut(text, tokens, eos=()):
    """(text up to the first EOS or the budget, reason)."""
    for i, token in enumerate(text[:tokens]):
        if token in eos:
            return text[: i + 1], "eos"
    return text[:tokens], "length"


def is_right(drafts, row, at, stream):
    """Whether the oracle's guess of token `at + stream` is right when `at` tokens of this row are produced."""
    if drafts == "sometimes":
        return random.Random(f"{row}/{at}/{stream}").random() < 0.5
    return drafts == "always"


class OracleDrafter(StreamDrafter):
    """Draws drafts from the known continuation; wherever the real streams propose nothing, it proposes nothing."""

    group = property(lambda self: self)

    def __init__(self, streams, propose):
        super().__init__(streams)
        self.candidates = propose
        self.widths = []

    def propose(self, stops, states, step):
        self.widths.append(max(len(sources) for sources in states.sources))
        real = super().propose(stops, states, step)
        return [None if guesses is None else self.draw(stop) for stop, guesses in zip(stops, real, strict=True)]

    def draw(self, stop):
        at, depth = len(stop.row.result.token_ids), stop.row.request.depth
        tokens = [self.candidates(stop.row, at, stream) for stream in range(depth)]
        return Guesses(tokens, [[math.log(0.6), math.log(0.3)]] * depth)


class Oracle(Decoder):
    """A decoder whose drafts are never, sometimes or always right."""

    def __init__(self, subject, tree, drafts, rows):
        self.drafts, self.texts = drafts, subject.texts
        self.numbers = {tuple(PROMPTS[row]): row for row in rows}
        super().__init__(subject.hooks, None, tree, OracleDrafter(subject.streams, self._candidates))

    @property
    def widths(self):
        return self.drafter.widths

    def _candidates(self, of_batch, at, stream):
        """The right token stands first in a chain, and alternates between the ranks in a tree: paths then have gaps."""
        row = self.numbers[tuple(of_batch.request.prompt)]
        right = self.texts[row][at + stream]
        guesses = [(right + 1 + i) % VOCABULARY for i in range(TOP_K)]
        if is_right(self.drafts, row, at, stream):
            guesses[0 if self.tree.kind == "chain" else (at + stream) % TOP_K] = right
        return guesses


def decode(decoder, rows, tokens=TOKENS, eos=()):
    return decoder.generate([PROMPTS[row] for row in rows], tokens, set(eos))


def assert_accounts(result):
    """Every pass after the prompt's yields its accepted depth plus one token; only an EOS cuts some of them off."""
    assert sum(result.accepted) == result.calls - 1
    yielded = 1 + sum(times * (depth + 1) for depth, times in enumerate(result.accepted))
    if result.finish_reason == "length":
        assert yielded == len(result.token_ids)
    else:
        assert len(result.token_ids) <= yielded < len(result.token_ids) + len(result.accepted)


def spared_passes(draw, subject, step, budget):
    """Rows of all kinds side by side, in random settings, say what they say alone; how many passes drafts spared."""
    rows, requests = draw.choices(ALL, k=draw.randint(1, 5)), []
    for row in rows:
        tree = TreeConfig(
            draw.choice(TREE_KINDS),
            max_nodes=draw.choice([1, 2, 7, 40]),
            top_k=draw.choice([1, 4, 30]),
            max_depth=draw.randint(0, GAMMA),
            max_stream_nodes=draw.choice([0, 1, 3]),
            max_batch_nodes=draw.choice([0, 0, 20]),
            budget=draw.choice(["auto", "auto", "fixed"]),
        )
        streams = draw.choice([subject.streams, subject.streams, subject.streams, None])
        requests.append(Decoder(subject.hooks, streams, tree).request(PROMPTS[row], draw.randint(1, TOKENS)))
    *_, results = Scheduler(step, budget=budget).decode(requests)
    for row, request, result in zip(rows, requests, results, strict=True):
        assert result.token_ids == subject.texts[row][: request.max_new_tokens]
    return sum(len(result.token_ids) - result.calls for result in results)
