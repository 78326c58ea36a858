"""Greedy verification: the accepted path is the longest one that the main stream itself would have taken."""

import random
from itertools import pairwise

import pytest

from ssft.decoding.accept.greedy import accept_greedy
from ssft.decoding.tree import DraftTree

#   50 ─┬─ 1:10 ─┬─ 3:20 ─── 5:30
#       │        └─ 4:21
#       └─ 2:11 ─── 6:20
TREE = DraftTree([50, 10, 11, 20, 21, 30, 20], [-1, 0, 0, 1, 1, 3, 2], [0, 1, 1, 2, 2, 3, 2], [0.0] * 7)


def accept(tree, choices):
    """The accepted path for choices [n] of the main stream, one per node; also checks the token issued after it."""
    path, token = accept_greedy(tree, lambda path: choices[path[-1]])
    assert token == choices[path[-1]]
    return path


@pytest.mark.parametrize(
    ("choices", "path"),
    [
        pytest.param([12, 20, 20, 30, 0, 0, 0], [0], id="no_child_fits"),
        pytest.param([10, 22, 0, 0, 0, 0, 0], [0, 1], id="first_level"),
        pytest.param([10, 21, 0, 0, 7, 0, 0], [0, 1, 4], id="second_sibling"),
        pytest.param([10, 20, 0, 30, 0, 7, 0], [0, 1, 3, 5], id="whole_depth"),
        pytest.param([11, 20, 20, 30, 0, 0, 7], [0, 2, 6], id="other_branch_with_the_same_token"),
        pytest.param([20, 20, 20, 30, 30, 30, 30], [0], id="a_grandchild_is_no_child"),
        pytest.param([11, 20, 21, 30, 0, 0, 0], [0, 2], id="a_cousin_is_no_child"),
    ],
)
def test_accepted_path_of_the_drawn_tree(choices, path):
    assert accept(TREE, choices) == path


def test_padding_choices_behind_the_tree_are_ignored():
    assert accept(TREE, [10, 20, 0, 30, 0, 7, 0, 10, 20, 30]) == [0, 1, 3, 5]


def test_a_lone_root_is_accepted():
    assert accept(DraftTree([5]), [9]) == [0]


def test_the_first_of_two_equal_siblings_wins():
    tree = DraftTree([50, 10, 10, 20], [-1, 0, 0, 1], [0, 1, 1, 2], [0.0] * 4)
    assert accept(tree, [10, 20, 20, 1]) == [0, 1, 3]


def naive_path(tree, choices):
    """The longest path every token of which is its parent's choice, found by looking at all nodes."""
    best = [0]
    for node in range(1, len(tree)):
        path = [node]
        while path[0] != 0:
            path.insert(0, tree.parents[path[0]])
        fits = all(tree.tokens[b] == choices[a] for a, b in pairwise(path))
        if fits and len(path) > len(best):
            best = path
    return best


def random_tree(rng):
    """At most 25 nodes; the children of a node differ."""
    tree = DraftTree([0])
    for _ in range(rng.randrange(25)):
        parent = rng.randrange(len(tree))
        taken = {tree.tokens[n] for n in range(1, len(tree)) if tree.parents[n] == parent}
        free = [t for t in range(3) if t not in taken]
        if free:
            tree.add(rng.choice(free), parent, 0.0)
    return tree


def test_random_trees_equal_the_naive_search():
    lengths = set()
    for seed in range(200):
        rng = random.Random(seed)
        tree = random_tree(rng)
        choices = [rng.randrange(3) for _ in range(len(tree))]
        path = naive_path(tree, choices)
        assert accept(tree, choices) == path, seed
        lengths.add(len(path))
    assert lengths >= {1, 2, 3, 4}


def test_a_choice_is_asked_once_per_node_and_sees_its_path():
    asked = []

    def choose(path):
        asked.append(list(path))
        return [10, 20, 0, 30, 0, 7, 0][path[-1]]

    assert accept_greedy(TREE, choose) == ([0, 1, 3, 5], 7)
    assert asked == [[0], [0, 1], [0, 1, 3], [0, 1, 3, 5]]
