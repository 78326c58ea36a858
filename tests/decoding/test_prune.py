"""Branches that are dropped inside a pass change no text, whoever was dropped: right drafts, wrong ones, or all."""

import functools
import itertools
import logging
import math
import random
from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURES, TINY, VOCABULARY, tiny_mistral
from covering import covering, over_architectures
from decoder import Decoder
from graph_stand_in import Recording
from oracle import ALL, GAMMA, PROMPTS, TOKENS, TOP_K, Oracle, adapted, decode

from ssft.base.kernels.shapes import Shapes
from ssft.decoding import prune
from ssft.decoding.budget.cost import PassCosts
from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.cache import TreeCache
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.prune import Pruning, likely_nodes
from ssft.decoding.request import Request
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.static import StaticStep
from ssft.decoding.step import Step
from ssft.decoding.tree import DraftTree
from ssft.errors import GenerationError
from ssft.streams.config import StreamConfig

DRAFTS = ["never", "sometimes", "always"]
ROWS = {"batch1": [1], "batch3": ALL}
HEAD = StreamConfig(GAMMA, 2, prune_head_rank=4)
CUTS = {"few": {"prune_below": 0.003}, "most": {"prune_below": 0.2}, "three": {"prune_keep": 3}}
CUTS["both"] = {"prune_below": 0.003, "prune_keep": 4}


@functools.cache
def shared(architecture):
    return adapted(TINY[architecture](), config=HEAD)


@pytest.fixture
def subject(architecture):
    return shared(architecture)


@pytest.fixture
def sizes(monkeypatch):
    """(rows of the pass, rows that went on) of every pass that was asked."""
    found = []
    real = Pruning._left

    def left(self, main):
        result = real(self, main)
        found.append((main.shape[1], main.shape[1] if result is None else result.num_main))
        return result

    monkeypatch.setattr(Pruning, "_left", left)
    return found


def texts(subject, rows=ALL):
    return [subject.texts[row][:TOKENS] for row in rows]


def said(results):
    return [result.token_ids for result in results]


def judged_by(monkeypatch, chance):
    """Let `chance(row, node)` be p(node | its parent) in the place of the prune head's word."""

    def edges(self, rows, main):
        return [[0.0, *(math.log(chance(row, node)) for node in range(1, len(row.tree)))] for row in rows]

    monkeypatch.setattr(Pruning, "_edges", edges)


# --- which nodes go on ---


def some_tree(seed, size=12):
    draw = random.Random(seed)
    tree = DraftTree([0])
    for _ in range(size - 1):
        tree.add(draw.randrange(9), draw.randrange(len(tree)), -draw.random())
    return tree, [0.0, *(math.log(draw.random()) for _ in range(size - 1))]


def path_of(tree, node):
    return [] if node == 0 else [*path_of(tree, tree.parents[node]), node]


@covering(seed=range(8), below=[0.0, 0.1, 0.5], keep=[0, 1, 4, 12])
def test_what_goes_on_is_what_brute_force_finds(seed, below, keep):
    tree, edges = some_tree(seed)
    likely = [n for n in range(len(tree)) if all(edges[m] >= math.log(below or 1e-300) for m in path_of(tree, n))]
    best = sorted(likely, key=lambda n: -sum(edges[m] for m in path_of(tree, n)))
    found = likely_nodes(tree, edges, below, keep)
    assert found == sorted(best[: keep or len(best)])
    assert found[0] == 0
    assert all(tree.parents[node] in found for node in found[1:])


def test_equal_chances_drop_no_parent():
    tree = DraftTree([0, 1, 2, 3], [-1, 0, 1, 2], [0, 1, 2, 3], [0.0] * 4)
    assert likely_nodes(tree, [0.0] * 4, 0.5, 2) == [0, 1]


def test_picked_nodes_are_a_tree_of_their_own():
    tree, _ = some_tree(3)
    nodes = likely_nodes(tree, [0.0, *[-1.0] * 11], 0.0, 6)
    smaller = tree.pick(nodes)
    for place, node in enumerate(nodes):
        assert smaller.trail(place) == tree.trail(node)
        assert (smaller.depths[place], smaller.scores[place]) == (tree.depths[node], tree.scores[node])


def test_the_head_gives_the_probability_of_a_child_after_its_parent(subject, monkeypatch):
    """Against logits at every node, by hand."""
    seen = []
    real = Pruning._edges

    def edges(self, rows, main):
        found = real(self, rows, main)
        logits = subject.hooks.backbone.logits(subject.hooks.backbone.finish(subject.streams.early_exit(main)))
        chances = logits.float().log_softmax(-1)
        for b, row in enumerate(rows):
            for node in range(1, len(row.tree)):
                expected = chances[b, row.tree.parents[node], row.tree.tokens[node]]
                seen.append(abs(float(expected) - found[b][node]))
        return found

    monkeypatch.setattr(Pruning, "_edges", edges)
    decode(Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 16, 4, prune_below=0.01)), ALL)
    assert len(seen) > 100
    assert max(seen) < 1e-4


# --- the text ---


@over_architectures(kind=TREE_KINDS, drafts=DRAFTS, rows=ROWS, cut=CUTS)
def test_any_drafts_give_the_plain_text(subject, kind, drafts, rows, cut, sizes):
    whole = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, rows), rows)
    results = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K, **cut), drafts, rows), rows)
    assert said(results) == said(whole) == texts(subject, rows)
    assert sizes
    for result, free in zip(results, whole, strict=True):
        assert sum(result.accepted) == result.calls - 1
        # Where drafts are right sometimes, who stops short may meet a better one.
        assert drafts == "sometimes" or result.calls >= free.calls
    if cut != CUTS["few"] and not (kind == "chain" and "prune_keep" in cut):
        assert any(left < before for before, left in sizes), "nothing was dropped, so the test shows nothing"


@covering(architecture=ARCHITECTURES, kind=TREE_KINDS, cut=CUTS, top_k=[4, VOCABULARY])
def test_real_streams_give_the_plain_text(subject, kind, cut, top_k, sizes):
    results = decode(Decoder(subject.hooks, subject.streams, TreeConfig(kind, 40, top_k, **cut)), ALL)
    assert said(results) == texts(subject)
    if kind != "chain":
        assert any(left < before for before, left in sizes)


@covering(architecture=ARCHITECTURES, kind=TREE_KINDS, drafts=DRAFTS)
def test_a_root_alone_is_plain_decoding(subject, kind, drafts):
    results = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K, prune_keep=1), drafts, ALL), ALL)
    assert said(results) == texts(subject)
    assert all(result.calls == len(result.token_ids) for result in results)


@over_architectures(kind=["best_first", "k_ary"], drafts=["sometimes", "always"], rows=ROWS)
def test_a_head_that_knows_costs_no_pass(subject, kind, drafts, rows, monkeypatch, sizes):
    """It keeps what is right and drops all else: as many passes as without, over fewer rows."""
    known = {tuple(PROMPTS[row]): subject.texts[row] for row in rows}

    def chance(row, node):
        text, done = known[tuple(row.request.prompt)], len(row.result.token_ids)
        return 0.9 if row.tree.trail(node) == text[done : done + row.tree.depths[node]] else 0.01

    whole = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, rows), rows)
    judged_by(monkeypatch, chance)
    results = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K, prune_below=0.5), drafts, rows), rows)
    assert [(r.token_ids, r.calls, r.accepted) for r in results] == [(r.token_ids, r.calls, r.accepted) for r in whole]
    assert max(left for _, left in sizes) <= GAMMA + 1 < max(before for before, _ in sizes)


@over_architectures(drafts=["sometimes", "always"], most=[1, 2])
def test_streams_beside_dropped_nodes_draft_nothing(subject, drafts, most):
    tree = TreeConfig("best_first", 16, TOP_K, max_stream_nodes=most, prune_keep=4)
    assert said(decode(Oracle(subject, tree, drafts, ALL), ALL)) == texts(subject)


@covering(
    config=[StreamConfig(2, 3, "rotation", 2, prune_head_rank=1), StreamConfig(6, 1, prune_head_rank=8)], cut=CUTS
)
def test_every_form_of_streams_gives_the_plain_text(config, cut):
    subject = adapted(TINY["llama"](), texts=shared("llama").texts, config=config)
    results = decode(Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 32, 8, **cut)), ALL)
    assert said(results) == texts(subject)


@covering(kind=TREE_KINDS, drafts=DRAFTS, window=[2, 6], cut=CUTS)
def test_sliding_window_gives_the_plain_text(kind, drafts, window, cut):
    subject = windowed(window)
    results = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K, **cut), drafts, ALL), ALL)
    assert said(results) == texts(subject)


@functools.cache
def windowed(window):
    return adapted(tiny_mistral(sliding_window=window), config=HEAD)


@covering(architecture=ARCHITECTURES, drafts=DRAFTS, cut=CUTS)
def test_lookups_and_a_tuned_budget_give_the_plain_text(subject, drafts, cut):
    tree = TreeConfig("best_first", 16, TOP_K, lookup=True, budget="auto", **cut)
    oracle = Oracle(subject, tree, drafts, ALL)
    oracle.budget = TunedBudget(Free())
    assert said(decode(oracle, ALL)) == texts(subject)


class Free:
    """Passes that cost the same, whatever they carry."""

    def of(self, rows):
        return self

    def table(self, nodes, sources, left):
        return torch.ones(nodes, sources + 1).numpy()


@covering(rows=ROWS, cut=CUTS, seed=[0, 1])
def test_drawn_texts_are_those_of_plain_decoding(rows, cut, seed):
    subject = shared("llama")

    def drawn(drafter, tree):
        requests = [Request(PROMPTS[row], TOKENS, drafter, tree, seed=seed + row) for row in rows]
        *_, results = Scheduler(Step(subject.hooks)).decode(requests)
        return said(results)

    streams = Decoder(subject.hooks, subject.streams).drafter
    assert drawn(streams, TreeConfig("best_first", 40, 12, **cut)) == drawn(None, TreeConfig())


@covering(kind=TREE_KINDS, drafts=DRAFTS, cut=CUTS)
def test_rows_in_fours_give_the_plain_text(kind, drafts, cut, monkeypatch):
    """The shapes of bfloat16, in float32."""
    monkeypatch.setattr(Shapes, "of", classmethod(lambda cls, *_: cls(4, 64)))
    subject = shared("llama")
    results = decode(Oracle(subject, TreeConfig(kind, 16, TOP_K, **cut), drafts, ALL), ALL)
    assert said(results) == texts(subject)


def test_rows_with_other_settings_stand_side_by_side(subject):
    trees = [TreeConfig("best_first", 16, 4, **cut) for cut in (*CUTS.values(), {}, {"prune_keep": 1})]
    for chosen in itertools.permutations(trees, 3):
        requests = [
            Decoder(subject.hooks, subject.streams, tree).request(PROMPTS[row], TOKENS)
            for row, tree in zip(ALL, chosen, strict=True)
        ]
        *_, results = Scheduler(Step(subject.hooks)).decode(requests)
        assert said(results) == texts(subject)


# --- one cache for the layers below and above ---


@pytest.mark.parametrize("row", ALL)
def test_what_is_kept_is_in_every_layer_what_it_is_without_pruning(subject, row, monkeypatch):
    def last_state(tree):
        """Keys and values of all layers for the text, the last pass aside."""
        found = []
        real = TreeCache.keep

        def keep(self, paths):
            real(self, paths)
            found.append(self.store[:, :, 0, :, : self.lengths[0]].clone())

        with monkeypatch.context() as patch:
            patch.setattr(TreeCache, "keep", keep)
            result = decode(Oracle(subject, tree, "sometimes", [row]), [row])
        assert sum(result[0].accepted[1:]) > 2, "no draft was accepted, so nothing was moved"
        return found[-1]

    whole, pruned = (last_state(TreeConfig("k_ary", 16, TOP_K, prune_keep=keep)) for keep in (0, 6))
    length = min(whole.shape[3], pruned.shape[3])
    assert length > len(PROMPTS[row]) + 10
    torch.testing.assert_close(whole[:, :, :, :length], pruned[:, :, :, :length], rtol=1e-4, atol=1e-4)


# --- where nothing can be dropped ---


def test_a_neighbour_that_needs_all_rows_spares_the_head(subject, monkeypatch):
    def never(*_):
        raise AssertionError("the head was asked for nothing")

    monkeypatch.setattr(prune.Pruning, "_edges", never)
    trees = [TreeConfig("k_ary", 16, TOP_K), TreeConfig("k_ary", 16, TOP_K, prune_keep=2)]
    requests = [
        Decoder(subject.hooks, subject.streams, tree).request(PROMPTS[row], 5) for row, tree in enumerate(trees)
    ]
    *_, results = Scheduler(Step(subject.hooks)).decode(requests)
    assert said(results) == [subject.texts[row][:5] for row in range(2)]


def test_streams_without_a_head_cannot_prune():
    other = adapted(TINY["llama"](), texts=shared("llama").texts)
    decoder = Decoder(other.hooks, other.streams, TreeConfig(prune_below=0.1))
    with pytest.raises(
        GenerationError, match=r"tree\.prune_below=0\.1, tree\.prune_keep=0: the adapter has no prune head"
    ):
        decoder.request(PROMPTS[0], 4)
    Decoder(other.hooks, None, TreeConfig(prune_below=0.1)).request(PROMPTS[0], 4)  # plainly nothing is drafted


# --- what it costs ---


def test_costs_are_measured_with_the_head_and_with_what_keep_drops(subject, sizes):
    costs = PassCosts(Step(subject.hooks))
    pruned, whole = (
        Decoder(subject.hooks, subject.streams, TreeConfig(prune_keep=keep)).request(PROMPTS[0], 4) for keep in (4, 0)
    )
    assert costs.key(pruned, 1) != costs.key(whole, 1)
    costs._measure(whole, 1)
    assert not sizes
    costs._measure(pruned, 1)
    assert {(16, 4), (8, 4)} <= set(sizes)


def test_a_budget_knows_what_share_of_the_nodes_goes_on(subject):
    """Three of what was planned, in the end; a pass is dear there, and by its share cheap enough for a larger tree."""
    asked = []

    class Dear(Free):
        def table(self, nodes, sources, left):
            asked.append(left)
            return super().table(nodes, sources, left)

    budget = TunedBudget(Dear())
    tree = TreeConfig("k_ary", 16, TOP_K, budget="auto", prune_keep=4)
    oracle = Oracle(subject, tree, "always", [1])
    oracle.budget = budget
    assert said(decode(oracle, [1])) == texts(subject, [1])
    assert asked[0] == 1.0
    assert 4 / 16 <= asked[-1] < 0.5
    fixed = Oracle(subject, replace(tree, prune_keep=0), "always", [1])
    fixed.budget = budget = TunedBudget(Dear())
    asked.clear()
    decode(fixed, [1])
    assert set(asked) == {1.0}


# --- where passes are captured ---


def test_pruned_passes_are_not_captured_which_is_said_once(caplog):
    subject = shared("llama")
    step = StaticStep(subject.hooks, Recording())
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 16, 4, prune_keep=4))
    decoder.step = step
    with caplog.at_level(logging.WARNING, logger="ssft.decoding.static"):
        assert said(decode(decoder, ALL)) == texts(subject)
        assert said(decode(decoder, ALL)) == texts(subject)
    assert sum("tree.prune_below and tree.prune_keep" in record.message for record in caplog.records) == 1
