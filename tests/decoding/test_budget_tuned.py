"""What `TunedBudget` chooses: the best of all choices where everything is known, and never much worse than plain."""

import itertools
import math
import random

import numpy as np
import pytest
from invented_texts import AUTO, COSTS, GAMMA, KINDS, FakeCosts, FakeDrafter, batches, drafter, guesses, row_with

from ssft.decoding.budget.calibration import Calibration
from ssft.decoding.budget.replay import replay
from ssft.decoding.budget.tuned import FIRST_LOOK, MARGIN, TunedBudget
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.tree import DraftTree

# --- against brute force ---


def all_nodes(guessed):
    """Every path of the full tree as (probability, ranks)."""
    found = []
    for depth in range(1, len(guessed.tokens) + 1):
        for ranks in itertools.product(range(len(guessed.tokens[0])), repeat=depth):
            chance = math.exp(sum(guessed.scores[d][rank] for d, rank in enumerate(ranks)))
            found.append((chance, ranks))
    return found


def closed_sets(paths, size):
    """Every set of at most `size` paths that holds all that lie above its own."""
    for count in range(size + 1):
        for chosen in itertools.combinations(paths, count):
            held = {ranks for _, ranks in chosen}
            if all(len(ranks) == 1 or ranks[:-1] in held for ranks in held):
                yield chosen


def path_of(tree, guessed, node):
    ranks = []
    while node:
        depth = tree.depths[node]
        ranks.insert(0, guessed.tokens[depth - 1].index(tree.tokens[node]))
        node = tree.parents[node]
    return tuple(ranks)


@pytest.mark.parametrize("seed", range(30))
def test_nodes_join_as_the_best_of_all_trees_has_them(seed):
    """No streams: of all trees of two rows that share a padded pass, the two with the most tokens less their price."""
    draw = random.Random(seed)
    most = 5
    prices = list(itertools.accumulate(draw.random() for _ in range(most)))
    costs = FakeCosts(lambda b, n, m: 1 + draw_scale * prices[n - 1])
    draw_scale = draw.choice([0.05, 0.2, 0.6])
    own = FakeDrafter(streams=False)
    tree = TreeConfig("best_first", most, 2, budget="auto")
    rows = [row_with(own, tree, guesses(draw, 2, 2)) for _ in range(2)]
    plain = costs.cost(2, 1, 0)

    def value(sets):
        tokens = sum(1 + sum(chance for chance, _ in chosen) for chosen in sets)
        extra = costs.cost(2, 1 + max(map(len, sets)), 0) / plain - 1
        return tokens - 2 * (1 + (1 + MARGIN) * extra)

    options = [list(closed_sets(all_nodes(row.guesses), most - 1)) for row in rows]
    best = max(value(sets) for sets in itertools.product(*options))
    sources = TunedBudget(costs).plan(rows)
    assert sources == [[], []]
    found = []
    for row in rows:
        chances = {ranks: chance for chance, ranks in all_nodes(row.guesses)}
        paths = [path_of(row.tree, row.guesses, node) for node in range(1, len(row.tree))]
        found.append([(chances[path], path) for path in paths])
    assert value(found) == pytest.approx(best)


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("seed", range(15))
def test_streams_stand_where_the_best_choice_has_them(seed, batch):
    """Of all numbers of nodes and all sets of stream nodes: the largest value, as the formula of `tuned.py` has it."""
    draw = random.Random(100 * seed + batch)
    node, stream, fixed = (draw.choice([0.01, 0.05, 0.15]) for _ in range(3))
    costs = FakeCosts(lambda b, n, m: 1 + node * (n - 1) + stream * m + fixed * (m > 0))
    own, most = drafter(), 5
    tree = TreeConfig("best_first", most, 2, budget="auto")
    rows = [row_with(own, tree, guesses(draw)) for _ in range(batch)]
    ordered = [sorted(all_nodes(row.guesses), reverse=True)[: most - 1] for row in rows]

    def price(n, m):
        return batch * (1 + (1 + MARGIN) * (costs.cost(batch, n, m) - 1))

    def tokens(row, n):
        return 1 + sum(chance for chance, _ in ordered[row][: n - 1])

    def stops(row, n):
        held = dict([(ranks, chance) for chance, ranks in ordered[row][: n - 1]] + [((), 1.0)])
        return {at: chance - sum(held.get((*at, rank), 0) for rank in range(2)) for at, chance in held.items()}

    usual = max(range(1, most + 1), key=lambda n: sum(tokens(row, n) for row in range(batch)) - price(n, 1))
    gains, cost = [tokens(row, usual) - 1 for row in range(batch)], price(usual, 1) - price(1, 1)
    best = (-math.inf,)
    for n in range(1, most + 1):
        chances = [stops(row, n) for row in range(batch)]
        for m in range(n + 1):
            sets = [
                max(itertools.combinations(own, m), key=lambda at, own=own: sum(own[a] for a in at)) for own in chances
            ]
            covered = [sum(own[at] for at in chosen) for own, chosen in zip(chances, sets, strict=True)]
            worth = (
                sum(s * g for s, g in zip(covered, gains, strict=True)) - (1 - math.prod(1 - s for s in covered)) * cost
            )
            value = sum(tokens(row, n) for row in range(batch)) + max(0, worth) - price(n, m)
            best = max(best, (value, n, m, [set(chosen) for chosen in sets]))
    _, n, m, sets = best
    sources = TunedBudget(costs).plan(rows)
    assert [len(row.tree) for row in rows] == [n] * batch
    assert [len(at) for at in sources] == [m] * batch
    for row, at, chosen in zip(rows, sources, sets, strict=True):
        assert {path_of(row.tree, row.guesses, node) for node in at} == chosen


# --- limits ---


@pytest.mark.parametrize("most", [0, 2])
@pytest.mark.parametrize("kind", TREE_KINDS)
def test_a_tree_keeps_its_limits(kind, most):
    """Where nothing costs anything: all nodes, unless streams at two of them make a smaller tree the better one."""
    free = FakeCosts(lambda b, n, m: 1.0)
    row = row_with(drafter(), TreeConfig(kind, 7, 2, 3, most, budget="auto"), guesses(random.Random(0)))
    ((*sources,),) = TunedBudget(free).plan([row])
    whole = 4 if kind == "chain" else 7
    assert (len(row.tree) <= whole) if most else (len(row.tree) == whole)
    assert max(row.tree.depths) <= 3
    assert len(sources) == (most or whole)


def test_rows_of_a_batch_share_their_nodes():
    free = FakeCosts(lambda b, n, m: 1.0)
    tree = TreeConfig("best_first", 16, 2, max_batch_nodes=12, budget="auto")
    own = drafter()
    rows = [row_with(own, tree, guesses(random.Random(seed))) for seed in range(3)]
    TunedBudget(free).plan(rows)
    assert [len(row.tree) for row in rows] == [4, 4, 4]


def test_fixed_rows_of_a_batch_get_what_they_are_configured_for_and_the_others_what_is_free_beside_them():
    steep = FakeCosts(lambda b, n, m: 10.0**n + 10.0**m)
    own = drafter()
    fixed = row_with(own, TreeConfig("best_first", 6, 2, max_stream_nodes=3), guesses(random.Random(1)))
    tuned = row_with(own, TreeConfig("best_first", 16, 2, budget="auto"), guesses(random.Random(2)))
    plain = row_with(None, TreeConfig(), None)
    sources = TunedBudget(steep).plan([fixed, tuned, plain])
    assert (len(fixed.tree), len(tuned.tree), len(plain.tree)) == (6, 6, 1)
    assert [len(at) for at in sources] == [3, 3, 3]
    assert sources[2] == [0, 0, 0]


def test_a_row_that_needs_one_more_token_gets_no_streams():
    cheap = FakeCosts(lambda b, n, m: 1 + 0.001 * n + 0.001 * m)
    tree = TreeConfig("best_first", 16, 2, budget="auto")
    for left, expected in ((2, 0), (9, 1)):
        row = row_with(drafter(), tree, guesses(random.Random(0)), tokens=left + 1)
        assert (len(TunedBudget(cheap).plan([row])[0]) > 0) == bool(expected)


# --- over whole texts ---


def speedup(texts, budget, tree=AUTO):
    return replay(texts, tree, budget).tokens_per_second / replay(texts, None, budget).tokens_per_second


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("misses")])
def test_where_drafts_miss_it_is_nearly_as_fast_as_plain(kind, cost, batch):
    """Even for an adapter whose drafts have been right so far."""
    own, budget = drafter(), TunedBudget(FakeCosts(COSTS[cost]))
    speedup(batches(own, "hits", batch, 1), budget)
    speedup(batches(own, kind, batch, 1), budget)
    assert speedup(batches(own, kind, batch, 2), budget) >= 0.97


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", ["hits", "weak"])
def test_where_drafts_hit_no_fixed_budget_is_clearly_faster(kind, cost, batch):
    own, costs = drafter(), FakeCosts(COSTS[cost])
    texts = batches(own, kind, batch)
    plain, tuned, *fixed = (
        replay(texts, tree, TunedBudget(costs)).tokens_per_second
        for tree in (
            None,
            AUTO,
            *(
                TreeConfig("best_first", nodes, 4, max_stream_nodes=sources)
                for nodes in (2, 3, 4, 6, 8)
                for sources in (1, 2, 4, 8)
                if sources <= nodes
            ),
        )
    )
    assert tuned >= 0.93 * max(1.04 * plain, *fixed)


def test_it_finds_back_when_drafts_hit_again():
    own, budget = drafter(), TunedBudget(FakeCosts(COSTS["knee"]))
    before = speedup(batches(own, "hits", 1, 1), budget)
    speedup(batches(own, "misses, sure of itself", 1), budget)
    assert speedup(batches(own, "hits", 1, 2), budget) >= 0.9 * before > 1.8


def test_it_looks_again_ever_more_rarely():
    """Streams that cost as much as a whole pass and guess nothing: seen after 8, 16, 32 … plain passes."""
    own = drafter()
    budget = TunedBudget(FakeCosts(lambda b, n, m: 1.0 + n + m))
    row = row_with(own, AUTO, None, tokens=10**6)
    looked = []
    for number in range(200):
        ((*sources,),) = budget.plan([row])
        if sources:
            looked.append(number)
        row.result.token_ids.append(number)
        row.guesses = Guesses([[-1, -2]] * GAMMA, [[-1.0, -2.0]] * GAMMA) if sources else None
        row.tree = DraftTree([number])
        budget.learn(row)
    gaps = np.diff([-1, *looked]) - 1
    assert gaps.tolist() == [FIRST_LOOK, 2 * FIRST_LOOK, 4 * FIRST_LOOK, 8 * FIRST_LOOK]


# --- calibration ---


def test_a_new_adapter_is_taken_at_its_word():
    said = Guesses([[1, 2], [3, 4]], [[math.log(0.6), math.log(0.3)], [math.log(0.5), math.log(0.1)]])
    found = Calibration(50).calibrated(said)
    assert found.tokens == said.tokens
    assert np.allclose(found.scores, said.scores)


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.95])
def test_ratios_follow_what_comes_at_each_depth_and_rank(truth):
    draw, calibration = random.Random(0), Calibration(200)
    for _ in range(2000):
        calibration.judge(
            1, [1, 2, 3], [math.log(0.5), math.log(0.2), math.log(0.1)], 1 if draw.random() < truth else 9
        )
    assert calibration.ratio(1, True) * 0.5 == pytest.approx(truth, abs=0.06)
    assert calibration.ratio(1, False) < 0.15
    assert (calibration.ratio(2, True), calibration.ratio(5, False)) == (1.0, 1.0)


def test_a_new_row_begins_with_what_its_adapter_did():
    adapter = Calibration(200)
    first = Calibration(30, adapter)
    for _ in range(60):
        first.judge(1, [1], [math.log(0.8)], 9)
    assert adapter.ratio(1, True) < 0.1
    second = Calibration(30, adapter)
    assert second.ratio(1, True) == adapter.ratio(1, True)
    second.judge(1, [1], [math.log(0.8)], 1)
    assert second.ratio(1, True) > 2 * adapter.ratio(1, True)


def test_calibrated_guesses_stand_in_their_new_order_and_are_no_more_than_certain():
    calibration = Calibration(100)
    for _ in range(40):
        calibration.judge(1, [1, 2], [math.log(0.6), math.log(0.3)], 2)
    found = calibration.calibrated(Guesses([[1, 2]], [[math.log(0.6), math.log(0.3)]]))
    assert found.tokens == [[2, 1]]
    assert np.exp(found.scores).sum() <= 1 + 1e-9
