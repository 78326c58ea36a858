"""`Scheduler`: the rows of a batch, from pass to pass (paper §3.2.2, appendix A.1).

    admit(requests)          rows wait
    run_pass()               a prompts' pass for those that wait, whose rows then join the others;
                             else one pass over all trees: verify the last draft, keep its path, make the next
    cancel(row)              a row leaves

Every row has its own length, drafter, tree and adapter. Plain decoding is the same with trees of one node and no
drafter, so a comparison of the two differs in nothing but the speculation.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ssft.decoding.accept.batch import accept
from ssft.decoding.budget.cost import PassCosts
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.cache import TreeCache
from ssft.decoding.draft.drafter import Stop
from ssft.decoding.grammar.parser import Parser
from ssft.decoding.logprobs import note_logprobs
from ssft.decoding.request import Generation, Request
from ssft.decoding.row import Row
from ssft.decoding.step import States, Step
from ssft.decoding.tree import DraftTree

CACHE, DRAFT = "cache compaction", "draft tree (Python)"
"""Parts of a pass that are timed here."""


class Scheduler:
    """Decoding of requests on one model; rows may come and go between two passes.

    A batch that is given at once is its simplest case: see `decode`.
    """

    def __init__(
        self, step: Step, turn: AbstractContextManager[Any] | None = None, budget: TunedBudget | None = None
    ) -> None:
        """`turn` is held during every pass; schedulers that share it may share a budget, which learns from all."""
        self.step = step
        self.turn = turn or nullcontext()
        self.budget = budget or TunedBudget(PassCosts(step))
        self.waiting: list[Row] = []
        self.rows: list[Row] = []
        self._cache: TreeCache | None = None

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished."""
        return bool(self.waiting or self.rows)

    def admit(self, requests: Sequence[Request]) -> list[Row]:
        """Rows for these requests, which take part from the next pass on.

        Raises:
            GenerationError: a request that the model cannot serve (`Request.most_tokens`), or a model that was changed
                so that streams cannot run on it (`StreamHooks.check`); none was admitted.
        """
        self.step.hooks.check()
        backbone = self.step.backbone
        limits = [request.most_tokens(backbone.context_length, backbone.vocab_size) for request in requests]
        pairs = zip(requests, limits, strict=True)
        rows = [Row(request, limit, DraftTree([request.prompt[-1]])) for request, limit in pairs]
        for row in rows:
            if (grammar := row.request.grammar) is not None:
                row.parser = Parser(grammar, self.step.timer)
            row.lookup = self.budget.lookup(row)
        self.waiting += rows
        return rows

    def cancel(self, row: Row) -> None:
        """End a row between two passes; one that has ended stays as it is."""
        if not row.finished:
            row.finish("cancelled")
            self.waiting = [other for other in self.waiting if other is not row]
            self._keep_unfinished()

    def run_pass(self) -> None:
        """One pass; finished rows have left afterwards."""
        with self.turn, torch.inference_mode():
            if self.waiting:
                self._run_prompts()
            elif self.rows:
                self._run_trees()

    def decode(self, requests: Sequence[Request]) -> Iterator[list[Generation]]:
        """Run all requests as one batch; yields after every pass, when each request's `Generation` is up to date.

        Closing the iterator ends the work between two passes.
        """
        rows = self.admit(requests)
        try:
            while self.busy:
                self.run_pass()
                yield [row.result for row in rows]
        finally:
            for row in rows:
                self.cancel(row)

    # -- passes -------------------------------------------------------------------------------------------------

    def _run_prompts(self) -> None:
        """The prompts of all waiting rows, which then stand with the others."""
        # Rows with one adapter stand side by side, so that its low-rank product is one.
        rows, self.waiting = _side_by_side(self.waiting), []
        states, cache = self._once(rows)
        logits = self.step.logits(rows, states.main)
        paths, issued = accept(rows, logits)
        self._advance(rows, states, paths, issued)
        note_logprobs(rows, logits, paths)
        if self._cache is None:
            self.rows, self._cache = rows, cache
        else:
            self._join(rows, cache)
        self._keep_unfinished()

    def _run_trees(self) -> None:
        """The trees of all rows: verified, kept as far as they are right, and drafted anew."""
        assert self._cache is not None
        with self.step.timer(DRAFT):
            sources = self.budget.plan(self.rows)
        begin = time.perf_counter()
        states = self.step.trees(self.rows, sources, self._cache)
        self.budget.went_on(self.rows)
        logits = self.step.logits(self.rows, states.main)
        with self.step.timer(DRAFT):
            paths, issued = accept(self.rows, logits)
        with self.step.timer(CACHE):
            self._cache.keep(paths)
        self._advance(self.rows, states, paths, issued)
        if self.step.steady:
            self.budget.took(1e3 * (time.perf_counter() - begin))
        note_logprobs(self.rows, logits, paths)
        self._keep_unfinished()

    def _advance(self, rows: list[Row], states: States, paths: list[list[int]], issued: list[int]) -> None:
        """Give every row its new tokens, and those that go on their next draft."""
        for row, path, token in zip(rows, paths, issued, strict=True):
            row.extend(path, token)
            self.budget.learn(row)
        ends = enumerate(zip(rows, paths, issued, strict=True))
        stops = [Stop(row, b, path[-1], token) for b, (row, path, token) in ends if not row.finished]
        for stop in stops:
            stop.row.tree, stop.row.guesses = DraftTree([stop.issued]), None
        self._draft(stops, states)

    def _draft(self, stops: list[Stop], states: States) -> None:
        """Let the drafter of every row that has one guess what follows; the next pass grows trees from it."""
        groups: dict[object, list[Stop]] = {}
        for stop in stops:
            if (drafter := stop.row.request.drafter) is not None and stop.row.request.depth:
                groups.setdefault(drafter.group, []).append(stop)
        for group in groups.values():
            drafter = group[0].row.request.drafter
            assert drafter is not None
            for stop, guesses in zip(group, drafter.propose(group, states, self.step), strict=True):
                stop.row.guesses = guesses

    def _once(self, rows: list[Row]) -> tuple[States, TreeCache]:
        """The prompts' pass of the rows, in which several answers to one prompt share a row."""
        shared: dict[object, Row] = {}
        for row in rows:
            shared.setdefault(_asks(row), row)
        states, cache = self.step.prompts(list(shared.values()))
        if len(shared) < len(rows):
            place = {key: i for i, key in enumerate(shared)}
            places = [place[_asks(row)] for row in rows]
            cache.select(places)
            states = states.select(places)
        return states, cache

    # -- rows ---------------------------------------------------------------------------------------------------

    def _join(self, rows: list[Row], cache: TreeCache) -> None:
        """Put rows that have had their prompts' pass among the others."""
        assert self._cache is not None
        together = self.rows + rows
        self._cache.join(cache, self.step.slots_needed(together))
        self.rows = _side_by_side(together)
        place = {id(row): b for b, row in enumerate(together)}
        order = [place[id(row)] for row in self.rows]
        if order != list(range(len(order))):
            self._cache.select(order)

    def _keep_unfinished(self) -> None:
        """Let finished rows leave the batch."""
        active = [b for b, row in enumerate(self.rows) if not row.finished]
        if len(active) == len(self.rows):
            return
        if active and self._cache is not None:
            with self.step.timer(CACHE):
                self._cache.select(active)
        elif not active:
            self._cache = None
        self.rows = [self.rows[b] for b in active]


def _asks(row: Row) -> object:
    """What the prompt's pass and the cache's size depend on."""
    request = row.request
    streams = (id(request.adapter), id(request.streams), request.stream_depth)
    return (tuple(request.prompt), row.budget, request.tree.max_nodes, *streams)


def _side_by_side(rows: list[Row]) -> list[Row]:
    """The rows with those of one adapter together, in the order in which each adapter first comes."""
    first: dict[int, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(id(row.request.adapter), place)
    return sorted(rows, key=lambda row: first[id(row.request.adapter)])
