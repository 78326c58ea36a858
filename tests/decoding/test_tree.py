"""Draft trees against brute force: which nodes they hold, in which order, and who sees whom."""

import itertools
import math

import numpy as np
import pytest
import torch
from covering import covering

from ssft.decoding.config import MAX_NODES, TREE_KINDS, TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.draft.grown import grown
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree, ancestor_mask, stop_order
from ssft.errors import ConfigError

ROOT = 99
GAMMA, WIDTH = 4, 3


def make_guesses(seed=0, gamma=GAMMA, width=WIDTH):
    """Distinct tokens and log-probabilities of each stream, best first."""
    generator = torch.Generator().manual_seed(seed)
    scores, tokens = torch.randn(gamma, 20, generator=generator).mul(2).log_softmax(-1).topk(width, dim=-1)
    return tokens.tolist(), scores.double().tolist()


def grow_tree(tokens, scores, config, limit):
    """What grows from guesses alone in a row that may produce `limit` tokens beside the one that ends the draft."""
    row = Row(Request([5], 99, ForcedDrafter(), config), limit + 1, DraftTree([ROOT]))
    return grown(row, Guesses(tokens, scores), config.max_nodes)


def grow(kind, max_nodes=16, top_k=WIDTH, max_depth=0, limit=GAMMA, seed=0):
    return grow_tree(*make_guesses(seed), TreeConfig(kind, max_nodes, top_k, max_depth), limit)


def path_of(tree, node):
    """Tokens from below the root down to `node`."""
    return () if node == 0 else (*path_of(tree, tree.parents[node]), tree.tokens[node])


def all_paths(seed=0, top_k=WIDTH, depth=GAMMA):
    """Every path that any tree could hold: {tokens: joint log-probability}."""
    tokens, scores = make_guesses(seed)
    return {
        tuple(tokens[d][r] for d, r in enumerate(ranks)): sum(scores[d][r] for d, r in enumerate(ranks))
        for size in range(1, depth + 1)
        for ranks in itertools.product(range(top_k), repeat=size)
    }


# --- what holds for every kind ---


@covering(max_nodes=[1, 2, 5, 16, 500], kind=TREE_KINDS, top_k=[1, 2, 3])
def test_every_tree_is_well_formed(kind, max_nodes, top_k):
    tree = grow(kind, max_nodes, top_k)
    assert 1 <= len(tree) <= max_nodes
    assert (tree.tokens[0], tree.parents[0], tree.depths[0], tree.scores[0]) == (ROOT, -1, 0, 0.0)
    assert len(tree.tokens) == len(tree.parents) == len(tree.depths) == len(tree.scores)
    known = all_paths(top_k=top_k)
    paths = [path_of(tree, node) for node in range(1, len(tree))]
    assert len(set(paths)) == len(paths)
    for node, path in enumerate(paths, start=1):
        assert 0 <= tree.parents[node] < node
        assert tree.depths[node] == len(path) == tree.depths[tree.parents[node]] + 1
        assert tree.scores[node] == pytest.approx(known[path])


@pytest.mark.parametrize(
    ("max_depth", "limit", "deepest"), [(0, 4, 4), (2, 4, 2), (0, 2, 2), (3, 1, 1), (9, 9, 4), (0, 0, 0), (2, -1, 0)]
)
def test_depth_is_the_least_of_setting_limit_and_streams(max_depth, limit, deepest):
    trees = {kind: grow(kind, 500, max_depth=max_depth, limit=limit) for kind in TREE_KINDS}
    assert {kind: max(tree.depths) for kind, tree in trees.items()} == dict.fromkeys(TREE_KINDS, deepest)
    assert {len(tree) == 1 for tree in trees.values()} == {deepest == 0}


# --- chain ---


@pytest.mark.parametrize(("max_nodes", "size"), [(16, 5), (5, 5), (3, 3), (1, 1)])
def test_chain_holds_the_best_token_of_each_stream(max_nodes, size):
    tokens, _ = make_guesses()
    tree = grow("chain", max_nodes)
    assert tree.tokens == [ROOT, *(row[0] for row in tokens)][:size]
    assert tree.parents == list(range(-1, size - 1))


# --- k_ary ---


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_k_ary_tree_is_complete(top_k):
    for depth in (1, 2, 3, 4):
        tree = grow("k_ary", 500, top_k, depth)
        assert [tree.depths.count(d) for d in range(depth + 1)] == [top_k**d for d in range(depth + 1)]
        assert {path_of(tree, n) for n in range(1, len(tree))} == set(all_paths(top_k=top_k, depth=depth))


def test_k_ary_budget_cuts_level_by_level():
    tree = grow("k_ary", 6, 2)
    assert tree.depths == [0, 1, 1, 2, 2, 2]
    assert tree.parents == [-1, 0, 0, 1, 1, 2]


# --- best first ---


@pytest.mark.parametrize(("top_k", "depth"), [(3, 4), (2, 4), (3, 2), (1, 4)])
def test_best_first_takes_the_likeliest_paths_of_all(top_k, depth):
    for seed, max_nodes in itertools.product(range(5), [2, 7, 16, 64]):
        tree = grow("best_first", max_nodes, top_k, depth, seed=seed)
        ranked = sorted(all_paths(seed, top_k, depth).items(), key=lambda item: -item[1])
        best = ranked[: max_nodes - 1]
        assert [path_of(tree, n) for n in range(1, len(tree))] == [path for path, _ in best], (seed, max_nodes)
        assert tree.scores[1:] == pytest.approx([score for _, score in best]), (seed, max_nodes)


def test_best_first_copes_with_fewer_guesses_than_top_k():
    tree = grow_tree([[1, 2], [3, 4]], [[-0.1, -2.0], [-0.2, -3.0]], TreeConfig("best_first", 99, 9), 9)
    assert len(tree) == 1 + 2 + 4


# --- masks and stops ---

#   0 ─┬─ 1 ─┬─ 3
#      │     └─ 4
#      └─ 2
HAND = DraftTree([9, 1, 2, 3, 4], [-1, 0, 0, 1, 1], [0, 1, 1, 2, 2], [math.log(p) for p in (1, 0.6, 0.3, 0.35, 0.05)])


def test_ancestor_mask_of_the_drawn_tree():
    assert ancestor_mask(HAND).astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("kind", TREE_KINDS)
def test_ancestor_mask_equals_a_walk_to_the_root(kind):
    tree = grow(kind, 40)
    expected = np.zeros((len(tree), len(tree)), dtype=bool)
    for start in range(len(tree)):
        node = start
        while node >= 0:
            expected[start, node] = True
            node = tree.parents[node]
    assert np.array_equal(ancestor_mask(tree), expected)


def test_stop_order_of_the_drawn_tree():
    # Stops: root 1-0.6-0.3 = 0.1, node 1: 0.6-0.4 = 0.2, node 2: 0.3, node 3: 0.35, node 4: 0.05.
    assert stop_order(HAND) == [3, 2, 1, 0, 4]


@pytest.mark.parametrize("kind", TREE_KINDS)
def test_stop_order_ranks_every_node_by_its_stop_probability(kind):
    tree = grow(kind, 12)
    stops = [
        math.exp(tree.scores[node]) - sum(math.exp(tree.scores[c]) for c in range(len(tree)) if tree.parents[c] == node)
        for node in range(len(tree))
    ]
    order = stop_order(tree)
    assert sorted(order) == list(range(len(tree)))
    assert [stops[n] for n in order] == sorted(stops, reverse=True)
    assert sum(stops) == pytest.approx(1.0)


def test_a_lone_root_stops_at_itself():
    assert stop_order(DraftTree([ROOT])) == [0]


# --- configuration ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "star"}, "tree.kind='star': expected one of best_first, k_ary, chain"),
        ({"max_nodes": 0}, f"tree.max_nodes=0: must lie between 1 and {MAX_NODES}"),
        ({"max_nodes": MAX_NODES + 1}, f"tree.max_nodes={MAX_NODES + 1}: must lie between"),
        ({"top_k": 0}, "tree.top_k=0: at least one"),
        ({"max_depth": -1}, "tree.max_depth=-1: 0 "),
        ({"max_batch_nodes": -1}, "tree.max_batch_nodes=-1: 0 "),
        ({"max_stream_nodes": -1}, "tree.max_stream_nodes=-1: 0 "),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TreeConfig(**changes).check_tree()


def test_config_round_trips_through_its_dict():
    config = TreeConfig("k_ary", 9, 2, 3, 1)
    assert TreeConfig(**config.tree_dict()) == config
