"""Prompt lookup: the index against a search through the history, hit rates, and trees of both sources."""

import itertools
import math
import random

import pytest
from covering import covering
from invented_texts import COSTS, FakeCosts

from ssft.decoding.budget.tuned import TunedBudget
from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.forced import ForcedDrafter
from ssft.decoding.draft.grown import grown
from ssft.decoding.draft.lookup import LONGEST, RANKS, HitRates, Lookup, LookupDrafter
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.tree import NOTHING, DraftTree, merged

GAMMA = 3

# --- the index ---


def searched(history, trail):
    """Length of the longest match and what came after it, by a search through all of the history."""
    text = [*history, *trail]
    for length in range(min(LONGEST, len(text)), 0, -1):
        ends = [at for at in range(length, len(history)) if history[at - length : at] == text[-length:]]
        if ends:
            return length, list(dict.fromkeys(history[at] for at in reversed(ends)))[:RANKS]
    return 0, []


class Noted(HitRates):
    """Rates that only note what they are asked and told."""

    def __init__(self):
        super().__init__()
        self.asked, self.told = [], []

    def rate(self, length, rank):
        self.asked.append((length, rank))
        return 0.5

    def judge(self, length, tokens, came):
        self.told.append((length, list(tokens), came))


@pytest.mark.parametrize("alphabet", [2, 5, 40])
@pytest.mark.parametrize("seed", range(4))
def test_the_index_finds_what_a_search_finds(seed, alphabet):
    draw = random.Random(f"{seed}/{alphabet}")
    history, rates = [draw.randrange(alphabet) for _ in range(draw.randint(1, 30))], Noted()
    lookup, seen = Lookup(history, rates), set()
    for _ in range(60):
        for size in (0, 1, 2, 7):
            trail = [draw.randrange(alphabet) for _ in range(size)]
            length, tokens = searched(history, trail)
            rates.asked.clear()
            found, scores = lookup.offer(trail)
            assert list(found) == tokens
            assert scores == [math.log(0.5)] * len(tokens) or not tokens
            assert rates.asked == [(length, rank) for rank in range(len(tokens))]
            seen.add(length)
        token, (length, tokens) = draw.randrange(alphabet), searched(history, [])
        rates.told.clear()
        lookup.advance(token)
        assert rates.told == ([(length, tokens, token)] if length else [])
        history.append(token)
    assert len(seen) > 1


def test_an_index_of_one_token_offers_nothing_and_a_repeated_one_itself():
    lookup = Lookup([5], HitRates())
    assert lookup.offer([]) == NOTHING
    lookup.advance(5)
    assert lookup.offer([])[0] == (5,)


# --- hit rates ---


def test_rates_are_those_of_the_worked_example():
    rates, lookup_offers = HitRates(), [7]
    found = [rates.rate(2, 0)]
    for came in (7, 7, 8):
        rates.judge(2, lookup_offers, came)
        found.append(rates.rate(2, 0))
    assert found == pytest.approx([1 / 3, 1 / 2, 3 / 5, 3 / 6])
    assert [HitRates().rate(1, rank) for rank in range(RANKS)] == pytest.approx([1 / 3, 1 / 6, 1 / 9, 1 / 12])
    assert rates.rate(1, 0) == pytest.approx(1 / 3)  # another length


@pytest.mark.parametrize("seed", range(5))
def test_rates_follow_what_comes_at_each_length_and_rank(seed):
    draw, shared = random.Random(seed), HitRates()
    rates = HitRates(shared)
    truth = {(length, rank): draw.random() / RANKS for length in range(1, LONGEST + 1) for rank in range(RANKS)}
    for length, _ in itertools.product(range(1, LONGEST + 1), range(4000)):
        ranks = [*range(RANKS), RANKS]
        chances = [truth[length, rank] for rank in range(RANKS)]
        (came,) = draw.choices(ranks, [*chances, 1 - sum(chances)])
        rates.judge(length, ranks[:RANKS], came)
    for (length, rank), chance in truth.items():
        assert rates.rate(length, rank) == pytest.approx(chance, abs=0.03)
        assert HitRates(shared).rate(length, rank) == pytest.approx(chance, abs=0.03)


def test_every_token_of_an_answer_teaches_and_the_prompt_does_not():
    shared = HitRates()
    lookup = Lookup([1, 2, 3, 1], HitRates(shared))
    assert shared.rate(1, 0) == pytest.approx(1 / 3)
    lookup.advance(2)  # a hit by a match of 1
    assert shared.rate(1, 0) == pytest.approx(1 / 2)
    lookup.advance(9)  # a miss: after 1, 2 came 3
    assert shared.rate(2, 0) == pytest.approx(1 / 4)
    lookup.advance(9)  # nothing was offered after 9
    assert shared.rate(1, 0) == pytest.approx(1 / 2)


# --- both sources in one tree ---


def test_an_offer_alone_is_taken_at_its_word():
    offer = ([3, 4], [-0.1, -3.0])
    assert merged(offer, NOTHING) is offer
    assert merged(NOTHING, offer) is offer


@pytest.mark.parametrize("seed", range(20))
def test_merged_offers_have_the_chances_that_are_promised_and_are_no_more_than_certain(seed):
    draw = random.Random(seed)
    offers, chances = [], []
    for _ in range(2):
        own = {token: draw.random() / 3 for token in draw.sample(range(6), 3)}
        chances.append(own)
        offers.append((list(own), [math.log(chance) for chance in own.values()]))
    tokens, scores = merged(*offers)
    guessed, found = chances
    left = math.sqrt(1 - sum(guessed.values()))
    both = guessed | {token: q * left for token, q in found.items()}
    both |= {token: 1 - (1 - guessed[token]) * (1 - found[token]) for token in {*guessed} & {*found}}
    whole = max(1, sum(both.values()))
    assert dict(zip(tokens, scores, strict=True)) == pytest.approx({t: math.log(c / whole) for t, c in both.items()})
    assert scores == sorted(scores, reverse=True)
    assert sum(map(math.exp, scores)) <= 1 + 1e-9


def test_what_was_found_alone_hardly_counts_beside_a_certain_guess():
    tokens, scores = merged(([3], [0.0]), ([4, 3], [-0.1, -2.0]))
    assert tokens == [3, 4]
    assert scores[1] == pytest.approx(math.log(1e-9))
    assert scores[0] == pytest.approx(0)


def row_of(history, config, left=30, drafter=None, rates=None):
    """A row whose history ends with the root of its next tree."""
    request = Request(history[:-1], 99, drafter or LookupDrafter(), config)
    row = Row(request, 1 + left, DraftTree(history[-1:]))
    row.result.token_ids = history[-1:]
    row.lookup = Lookup(history, rates or HitRates())
    return row


def offered(row, guesses, path):
    """Tokens and log-probabilities under the node of this path, by the definition."""
    first = (guesses.tokens[len(path)], guesses.scores[len(path)]) if len(path) < len(guesses.tokens) else NOTHING
    tokens, scores = merged(first, row.lookup.offer(path))
    return list(tokens)[: row.request.tree.width], list(scores)[: row.request.tree.width]


def random_guesses(draw, alphabet=6, width=3):
    tokens = [draw.sample(range(alphabet), width) for _ in range(GAMMA)]
    return Guesses(tokens, [sorted((math.log(draw.random() / width) for _ in range(width)), reverse=True)] * GAMMA)


@covering(pairs=False, kind=TREE_KINDS, seed=range(6), depth=[0, 2, 5], left=[2, 5, 30])
def test_every_node_has_the_likeliest_of_both_offers(kind, seed, depth, left):
    draw = random.Random(seed)
    config = TreeConfig(kind, draw.choice([6, 12, 40]), 3, max_depth=depth, lookup=True)
    row, guesses = row_of([draw.randrange(6) for _ in range(25)], config, left), random_guesses(draw)
    tree = grown(row, guesses, config.max_nodes)
    deepest = min(left - 1, depth or left)
    assert max(tree.depths) <= deepest
    children = tree.children()
    rivals = []  # scores of what was offered under nodes of the tree and was not taken
    for node in range(len(tree)):
        path = tree.trail(node)
        tokens, scores = offered(row, guesses, path) if len(path) < deepest else ([], [])
        under = list(children.get(node, {}))
        assert under == tokens[: len(under)]
        for token, child in children.get(node, {}).items():
            assert tree.scores[child] == pytest.approx(tree.scores[node] + scores[tokens.index(token)])
        rivals += [tree.scores[node] + score for score in scores[len(under) :]]
    if len(tree) < config.max_nodes:
        assert not rivals
    if kind == "best_first" and rivals:
        assert min(tree.scores) >= max(rivals) - 1e-9


@pytest.mark.parametrize("kind", TREE_KINDS)
def test_a_lookup_goes_on_where_the_guesses_end(kind):
    phrase = list(range(10, 40))
    row = row_of([*phrase, 1, 2, phrase[0]], TreeConfig(kind, 40, 2, lookup=True), left=50)
    tree = grown(row, Guesses([[phrase[1], 5]] * 1, [[-0.1, -3.0]]), 25)
    copied = [node for node in range(len(tree)) if tree.trail(node) == phrase[1 : 1 + tree.depths[node]]]
    assert max(tree.depths[node] for node in copied) > 2 * GAMMA
    assert grown(row, None, 9).tokens == phrase[:9]
    limited = row_of([*phrase, 1, 2, phrase[0]], TreeConfig(kind, 40, 2, max_depth=4, lookup=True), left=50)
    assert max(grown(limited, None, 40).depths) == 4
    assert max(grown(row_of([*phrase, phrase[0]], row.request.tree, left=4), None, 40).depths) == 3


def test_only_rows_that_draft_look_up():
    tree = TreeConfig(lookup=True)
    budget = TunedBudget(FakeCosts(COSTS["flat"]))
    made = {
        (drafter, config.lookup): budget.lookup(Row(Request([5, 6], 9, drafter, config), 9, DraftTree([6])))
        for drafter in (None, ForcedDrafter(), LookupDrafter())
        for config in (tree, TreeConfig())
    }
    assert [found is not None for found in made.values()] == [False, False, True, False, True, True]


def test_rows_of_one_drafter_share_what_they_learn_and_others_do_not():
    budget, tree = TunedBudget(FakeCosts(COSTS["flat"])), TreeConfig(lookup=True)
    drafters = {name: ForcedDrafter() for name in "ab"}

    def lookup(name):
        return budget.lookup(Row(Request([1, 2, 1], 9, drafters[name], tree), 9, DraftTree([1])))

    row = lookup("a")
    for _ in range(20):
        row.advance(2)
        row.advance(1)
    learned = {name: lookup(name).rates.rate(LONGEST, 0) for name in drafters}
    assert learned["b"] == pytest.approx(1 / 3)
    assert learned["a"] > 0.8
    lookup("b").rates.judge(LONGEST, [1], 2)
    assert lookup("b").rates.rate(LONGEST, 0) == pytest.approx(1 / 4)
    assert lookup("a").rates.rate(LONGEST, 0) == learned["a"]
