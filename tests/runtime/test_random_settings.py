"""Everything on at once, in 200 random settings: a row's text is its text alone, decoded plainly, in float32.

A setting draws the family of the base, fast products or the modules' own, one to six rows (each with its adapter or
none, prompt, length, sampling, processors, stop string, answers to one prompt, draft tree, budget, a lookup or none,
branches that are dropped inside a pass or none, and drafts that are the streams' own or never, sometimes or always
right), which rows come late and which are cancelled.
"""

import atexit
import functools
import math
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES
from invented_texts import COSTS, FakeCosts
from shelf import shared_shelf

from ssft.base.load import load_base
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_with_prune_head, write_with_vocabulary
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import BUDGETS, TREE_KINDS, TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.prune import Pruning
from ssft.decoding.scheduler import Scheduler
from ssft.runtime.jobs import make_jobs
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig
from ssft.streams.modules import StreamModules

SETTINGS, PARTS = 200, 4
WITH_IDS = {"deep": range(0, 97, 2), "own": range(97), "many": [50]}
"""Adapters that also stand on the shelf with a draft vocabulary of these ids."""
DRAFTS = ["streams", "never", "sometimes", "always"]
SAMPLING = {
    "temperature": [0.5, 1.0, 1.5],
    "top_k": [2, 5, 40],
    "top_p": [0.7, 0.95],
    "min_p": [0.05, 0.3],
    "repetition_penalty": [0.8, 1.3, 2.0],
    "presence_penalty": [-1.0, 0.7],
    "frequency_penalty": [0.4],
    "no_repeat_ngram_size": [1, 2, 3],
    "min_new_tokens": [2, 4],
    "bad_words_ids": [[[7]], [[9, 11], [30]]],
}
CUTS = [{"prune_below": 0.01}, {"prune_below": 0.3}, {"prune_keep": 5}, {"prune_below": 0.001, "prune_keep": 2}]
ROWS = 40
"""Different rows for each family, of which every setting takes some; each is decoded alone once."""


@functools.cache
def models(family):
    """The shelf over the family's base, with the modules' own products and with fast ones."""
    shelf = shared_shelf(family)
    folder = Path(tempfile.mkdtemp(prefix="ssft-vocabularies-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    paths = dict(shelf.paths)
    for name, ids in WITH_IDS.items():
        bundle = write_with_vocabulary(folder / name, read_bundle(shelf.paths[name]), torch.tensor(list(ids)))
        paths[f"{name}, some ids"] = bundle.path
    for name, path in paths.items():
        if (bundle := read_bundle(path)).stream_config is not None:
            paths[name] = write_with_prune_head(folder / f"{name}, pruning", bundle, random_head(), {}).path
    both = []
    for fast in (False, True):
        model = MultiAdapterModel(*load_base(shelf.base, dtype="float32", device="cpu"), fast=fast)
        for name, path in paths.items():
            model.load_adapter(path, name)
        both.append(model)
    return both


def random_head():
    """A prune head alone; it changes nothing where no tree prunes."""
    torch.manual_seed(7)
    head = StreamModules(StreamConfig(identifier="rotation", prune_head_rank=3), 64)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


@functools.cache
def row(family, number):
    """A row as jobs, one for each of its answers, and what each of them says alone."""
    rng, model = random.Random(f"{family}/{number}"), models(family)[0]
    settings = {key: rng.choice(SAMPLING[key]) for key in rng.sample(sorted(SAMPLING), rng.randint(0, 3))}
    if rng.random() < 0.5:  # greedy, perhaps with processors
        settings = {k: v for k, v in settings.items() if k not in ("temperature", "top_k", "top_p", "min_p")}
    else:
        settings |= {"do_sample": True, "seed": rng.randrange(2**40)}
    (job,) = make_jobs(
        [[rng.randrange(4, 97) for _ in range(rng.randint(1, 20))]],
        rng.choice([None, *model.adapters()]),
        model.tokenizer,
        model.decode,
        model.eos_token_ids,
        rng.randint(5, 10),
        rng.choice([None, None, "ab", list("aeiou34")]),
        ignore_eos=rng.random() < 0.5,
        sampling=settings,
    )
    jobs = job.answers(rng.randint(2, 3) if "seed" in settings and rng.random() < 0.4 else 1)
    return [(job, decode(model, [requested(model, job)])[0].token_ids) for job in jobs]


def requested(model, job, drafter=None, tree=None):
    """The row as the scheduler takes it."""
    adapter = model.bank.get(job.adapter)
    request = job.request(adapter, drafter, model.model.device)
    return request if tree is None else replace(request, tree=tree)


def decode(model, requests):
    *_, results = Scheduler(model.step).decode(requests)
    return results


class Known(StreamDrafter):
    """Drafts of a text that is known, never, sometimes or always right, where the streams propose anything."""

    group = property(lambda self: self)

    def __init__(self, own, text, drafts):
        super().__init__(own.streams, own.vocabulary)
        self.text, self.drafts = text, drafts

    def propose(self, stops, states, step):
        found = super().propose(stops, states, step)
        return [guesses and self.known(stop.row) for stop, guesses in zip(stops, found, strict=True)]

    def known(self, row):
        at, places = len(row.result.token_ids), []
        for depth in range(row.request.depth):
            token = self.text[at + depth] if at + depth < len(self.text) else 0
            right = self.drafts == "always" or (self.drafts == "sometimes" and (7 * at + depth) % 3 > 0)
            places.append([token if right else (token + 2) % 97, (token + 1) % 97])
        return Guesses(places, [[math.log(0.7), math.log(0.2)]] * len(places))


def random_tree(rng):
    return TreeConfig(
        rng.choice(TREE_KINDS),
        rng.choice([2, 4, 8, 16, 31, 31]),
        rng.choice([1, 2, 20]),
        max_depth=rng.choice([0, 0, 1, 3]),
        max_stream_nodes=rng.choice([0, 0, 1, 3]),
        max_batch_nodes=rng.choice([0, 0, 12]),
        budget=rng.choice(BUDGETS),
    )


def run(model, rng, requests, costs):
    """Results of rows that come at once or late, and the places of those that were cancelled."""
    scheduler = Scheduler(model.step, budget=TunedBudget(FakeCosts(COSTS[costs])))
    late = {place for place in range(1, len(requests)) if rng.random() < 0.3}
    doomed = {place for place in range(len(requests)) if rng.random() < 0.1}
    first = [place for place in range(len(requests)) if place not in late]
    rows = dict(zip(first, scheduler.admit([requests[place] for place in first]), strict=True))
    passes = 0
    while scheduler.busy or late:
        if late and (passes >= 2 or not scheduler.busy):
            place = late.pop()
            rows[place] = scheduler.admit([requests[place]])[0]
        scheduler.run_pass()
        passes += 1
        if passes == 4:
            for place in doomed & set(rows):
                scheduler.cancel(rows[place])
    results = [rows[place].result for place in range(len(requests))]
    return results, {place for place, result in enumerate(results) if result.finish_reason == "cancelled"}


def one_setting(number, seen):
    """Draw a setting, decode it with drafts and without, and compare; `seen` counts what was there."""
    rng = random.Random(number)
    family, fast, costs = rng.choice(ARCHITECTURES), rng.random() < 0.5, rng.choice(sorted(COSTS))
    model = models(family)[fast]
    known = [answer for _ in range(rng.randint(1, 6)) for answer in row(family, rng.randrange(ROWS))][:6]
    looks = random.Random(f"lookup {number}")
    trees = [replace(random_tree(rng), lookup=looks.random() < 0.4) for _ in known]
    cuts = random.Random(f"cuts {number}")
    trees = [replace(tree, **(cuts.choice(CUTS) if cuts.random() < 0.5 else {})) for tree in trees]
    drafts = [rng.choice(DRAFTS) for _ in known]
    drafters = []
    for (job, text), kind in zip(known, drafts, strict=True):
        adapter = model.bank.get(job.adapter)
        own = adapter.drafter
        drafters.append(Known(own, text, kind) if own and kind != "streams" else own or adapter.unguessed)
    streamed = [requested(model, job, *how) for (job, _), *how in zip(known, drafters, trees, strict=True)]
    plain = [requested(model, job) for job, _ in known]
    facts = f"setting {number}: {family}, fast={fast}, {drafts}, {trees}"
    for requests in (streamed, plain):
        results, cancelled = run(model, rng, requests, costs)
        for place, ((_, text), result) in enumerate(zip(known, results, strict=True)):
            expected = text[: len(result.token_ids)] if place in cancelled else text
            assert result.token_ids == expected, f"{facts}: row {place} of {known[place][0]}"
        if requests is streamed:
            kept = [place for place, own in enumerate(drafters) if own.reach and place not in cancelled]
            for place in kept:
                seen[accepted(results[place])] += 1
                seen["a lookup"] += trees[place].lookup
                seen["own streams"] += drafts[place] == "streams" and results[place].calls < len(known[place][1])
            found = [place for place, own in enumerate(drafters) if not own.reach and trees[place].lookup]
            seen["a lookup alone"] += len(found)
            seen["cancelled"] += len(cancelled)
    seen.update(tree.budget for tree in trees)
    seen.update({f"fast={fast}": 1, family: 1, "batches of several": len(known) > 1})
    seen["mixed"] += len({job.adapter for job, _ in known}) > 1
    seen["bare"] += any(job.adapter is None for job, _ in known)
    seen["some ids"] += sum("some ids" in str(job.adapter) for job, _ in known)
    seen["drawn"] += sum(job.seed is not None for job, _ in known)
    seen["stopped by a string"] += sum(job.stop is not None and len(text) < job.max_new_tokens for job, text in known)


def accepted(result):
    """Whether drafts were accepted in none, some, or all of the passes that could accept one."""
    depths = {depth for depth, times in enumerate(result.accepted) if times}
    return "never" if depths <= {0} else "sometimes" if 0 in depths else "always"


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_adapters_say_different_things(family):
    model = models(family)[0]
    prompts = [[random.Random(seed).randrange(4, 97) for _ in range(9)] for seed in range(3)]
    texts = [model.complete(prompts, name, max_new_tokens=8, speculate=False) for name in (None, "deep", "many")]
    assert all(len({tuple(result.token_ids) for result in answers}) == 3 for answers in zip(*texts, strict=True))


@pytest.mark.parametrize("part", range(PARTS))
def test_a_row_says_what_it_says_alone_and_plainly(part, monkeypatch):
    seen = Counter()
    real = Pruning._left

    def left(self, main):
        result = real(self, main)
        seen["dropped"] += result is not None
        return result

    monkeypatch.setattr(Pruning, "_left", left)
    for number in range(part, SETTINGS, PARTS):
        one_setting(number, seen)
    often = ("mixed", "batches of several", "some ids", "drawn", "fast=True", "fast=False", "a lookup", "dropped")
    for what in (*DRAFTS[1:], *BUDGETS, *often):
        assert seen[what] >= 12, (what, seen)
    for what in ("own streams", "a lookup alone", "cancelled", "bare", "stopped by a string", *ARCHITECTURES):
        assert seen[what] >= 4, (what, seen)
