"""Drawn tokens: a seed's text is the same whatever the drafts are worth, and its distribution is the model's own."""

import copy
import functools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TINY, VOCABULARY, random_ids, with_adapter
from covering import covering
from random_sampling import random_sampling
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from ssft.decoding.accept.sampled import accept_sampled, draw, uniform
from ssft.decoding.budget.fixed import fixed_tree
from ssft.decoding.config import TreeConfig
from ssft.decoding.draft.drafter import Guesses
from ssft.decoding.draft.streams import StreamDrafter
from ssft.decoding.processors import history_processors, warpers
from ssft.decoding.request import Request
from ssft.decoding.row import Row
from ssft.decoding.sampling import Sampling
from ssft.decoding.scheduler import Scheduler
from ssft.decoding.step import Step
from ssft.decoding.tree import DraftTree
from ssft.errors import GenerationError
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of

GAMMA, TOP_K, TOKENS = 3, 2, 20
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 4, 15, 6)]
CPU = torch.device("cpu")


@functools.cache
def hooked(architecture):
    model = with_adapter(TINY[architecture](), StreamConfig(GAMMA, 2))
    return StreamHooks(model), streams_of(model)


class Oracle(StreamDrafter):
    """Drafts that are never, sometimes or always right, where the real streams draft."""

    group = property(lambda self: self)

    def __init__(self, streams, drafts, texts):
        super().__init__(streams)
        self.drafts, self.texts = drafts, texts

    def propose(self, stops, states, step):
        real = super().propose(stops, states, step)
        return [None if guesses is None else self.guess(stop.row) for stop, guesses in zip(stops, real, strict=True)]

    def guess(self, row):
        text, at = self.texts[tuple(row.request.prompt)], len(row.result.token_ids)
        places = []
        for stream in range(row.request.depth):
            right = text[at + stream] if at + stream < len(text) else 0
            good = self.drafts == "always" or (self.drafts == "sometimes" and (at * 7 + stream) % 3 > 0)
            places.append([(right + 1) % VOCABULARY, right if good else (right + 2) % VOCABULARY])
        return Guesses(places, [[math.log(0.6), math.log(0.3)]] * len(places))


def request(prompt, sampling, drafter, ends=frozenset(), tokens=TOKENS):
    return Request(
        prompt,
        tokens,
        drafter,
        TreeConfig("best_first", 16, TOP_K),
        eos_token_ids=ends,
        processors=history_processors(sampling, len(prompt), ends, CPU),
        warpers=warpers(sampling),
        seed=sampling.seed if sampling.sampled else None,
    )


def decode(hooks, requests):
    *_, results = Scheduler(Step(hooks)).decode(requests)
    return results


@functools.cache
def alone(architecture, case):
    """The case's settings of each prompt, and its plain texts, one row at a time."""
    hooks, _ = hooked(architecture)
    samplings = [random_sampling(f"{case}/{row}") for row in range(len(PROMPTS))]
    ends = frozenset({case % VOCABULARY, 11}) if case % 2 else frozenset()
    texts = {}
    for prompt, sampling in zip(PROMPTS, samplings, strict=True):
        texts[tuple(prompt)] = decode(hooks, [request(prompt, sampling, None, ends)])[0].token_ids
    return samplings, ends, texts


@covering(architecture=["llama", "mistral"], drafts=["never", "sometimes", "always"], case=range(8), rows=[1, 4])
def test_drafts_and_neighbours_change_no_token_of_a_seed(architecture, drafts, case, rows):
    hooks, streams = hooked(architecture)
    samplings, ends, texts = alone(architecture, case)
    oracle = Oracle(streams, drafts, texts)
    pairs = list(zip(PROMPTS, samplings, strict=True))[:rows]
    for drafter in (oracle, None):
        results = decode(hooks, [request(prompt, sampling, drafter, ends) for prompt, sampling in pairs])
        for (prompt, _), result in zip(pairs, results, strict=True):
            assert result.token_ids == texts[tuple(prompt)]
            if drafter is not None and drafts == "always":
                assert result.calls == 1 + math.ceil((len(result.token_ids) - 1) / (GAMMA + 1))
            if drafter is None or drafts == "never":
                assert result.calls == len(result.token_ids)


def test_seeds_give_different_texts_and_greedy_another():
    hooks, _ = hooked("llama")
    settings = [Sampling(), *(Sampling(temperature=1.0, seed=seed) for seed in range(6))]
    results = decode(hooks, [request(PROMPTS[0], sampling, None) for sampling in settings])
    assert len({tuple(result.token_ids) for result in results}) == 7


def test_a_text_goes_on_with_its_seed_as_it_would_have():
    hooks, _ = hooked("llama")
    sampling = Sampling(temperature=1.2, top_p=0.95, seed=5)
    (whole,) = decode(hooks, [request(PROMPTS[1], sampling, None)])
    (rest,) = decode(hooks, [request(PROMPTS[1] + whole.token_ids[:8], sampling, None, tokens=TOKENS - 8)])
    assert rest.token_ids == whole.token_ids[8:]


# --- the distribution ---


def chi_square(counts, expected):
    """(statistic - degrees) / its deviation; cells of little expectation are one cell."""
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    assert wanted[-1] > 0 or observed[-1] == 0
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    degrees = len(wanted) - 1
    return (((observed - wanted) ** 2 / wanted).sum() - degrees) / math.sqrt(2 * degrees)


def row(of_setting, seed, produced, tree):
    """A row of a request with another seed, as it is after these tokens."""
    own = copy.copy(of_setting)
    own.seed = seed
    found = Row(own, 9, tree)
    found.result.token_ids = produced
    return found


def test_three_tokens_with_drafts_have_the_exact_distribution():
    """A main stream over 12 tokens whose next token depends on the last: 50,000 walks, each over trees of depth 2."""
    size, draws, batch, steps = 12, 50_000, 1000, 3
    logits = torch.randn(size, size, generator=torch.Generator().manual_seed(3)) * 1.5
    sampling = Sampling(temperature=0.9, top_k=10, seed=0)
    of_setting, warped = request([1, 4], sampling, None), logits
    for warper in warpers(sampling):
        warped = warper(None, warped)

    def drafted(root):
        """Every second token under the root, and below each of them two: walks of every length come up."""
        tree = DraftTree([root])
        for token in range(0, size, 2):
            node = tree.add(token, 0, 0.0)
            for below in (token, (token + 3) % size):
                tree.add(below, node, 0.0)
        return tree

    trees = [drafted(root) for root in range(size)]
    at_nodes = torch.stack([logits[tree.tokens] for tree in trees])
    counts, depths = np.zeros((size,) * steps), Counter()
    for first in range(0, draws, batch):
        texts = [[] for _ in range(batch)]
        while open_ones := [i for i, text in enumerate(texts) if len(text) < steps]:
            roots = [texts[i][-1] if texts[i] else 4 for i in open_ones]
            pairs = enumerate(zip(open_ones, roots, strict=True))
            rows = {b: row(of_setting, first + i, list(texts[i]), trees[root]) for b, (i, root) in pairs}
            for b, (path, token) in accept_sampled(rows, at_nodes[roots]).items():
                depths[len(path)] += 1
                texts[open_ones[b]] += [*(rows[b].tree.tokens[node] for node in path[1:]), token]
        for text in texts:
            counts[tuple(text[:steps])] += 1
    assert min(depths[depth] for depth in (1, 2, 3)) > draws / 20
    p = warped.double().softmax(-1).numpy()
    exact = p[4][:, None, None] * p[:, :, None] * p[None, :, :]
    assert abs(chi_square(counts.ravel(), draws * exact.ravel())) < 4


THEIRS = {
    "temperature": logits_process.TemperatureLogitsWarper,
    "top_k": logits_process.TopKLogitsWarper,
    "top_p": logits_process.TopPLogitsWarper,
    "min_p": logits_process.MinPLogitsWarper,
    "typical_p": logits_process.TypicalLogitsWarper,
    "repetition_penalty": logits_process.RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": logits_process.NoRepeatNGramLogitsProcessor,
    "bad_words_ids": logits_process.NoBadWordsLogitsProcessor,
    "sequence_bias": logits_process.SequenceBiasLogitsProcessor,
    "min_new_tokens": lambda least: logits_process.MinNewTokensLengthLogitsProcessor(3, least, [2]),
}
VALUES = {
    "temperature": 0.6,
    "top_k": 3,
    "top_p": 0.7,
    "min_p": 0.2,
    "typical_p": 0.6,
    "repetition_penalty": 1.6,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[3], [4, 5]],
    "sequence_bias": {(6,): 1.5, (4, 7): -2.0},
    "min_new_tokens": 3,
}
HISTORY = [4, 5, 1, 5, 4]
"""Three tokens of a prompt and two of the answer."""


def first_tokens(settings, scores, draws=5000):
    """How often each token follows `HISTORY` over many seeds."""
    of_setting = request(HISTORY[:3], Sampling(seed=0, **settings), None, frozenset({2}))
    rows = {seed: row(of_setting, seed, HISTORY[3:], DraftTree(HISTORY[-1:])) for seed in range(draws)}
    found = accept_sampled(rows, scores.expand(draws, 1, -1))
    return np.bincount([token for _, token in found.values()], minlength=12)


SCORES = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 1.5


@pytest.mark.parametrize("name", VALUES)
def test_every_setting_has_the_distribution_of_transformers(name):
    scores = SCORES.clone()
    scores[[2, 3, 5, 6, 7]] += 2  # what is forbidden or weighed matters
    theirs = LogitsProcessorList([THEIRS[name](VALUES[name])])(torch.tensor([HISTORY]), scores.view(1, -1).clone())
    exact = theirs.double().softmax(-1)[0].numpy()
    assert abs(exact - scores.double().softmax(-1).numpy()).max() > 0.02
    counts = first_tokens({name: VALUES[name]}, scores)
    assert not counts[exact == 0].any()
    assert abs(chi_square(counts, 5000 * exact)) < 4


@pytest.mark.parametrize(("name", "lowered"), [("presence_penalty", {4: 1, 5: 1}), ("frequency_penalty", {4: 1, 5: 1})])
def test_penalties_of_the_answer_count_the_answer_alone(name, lowered):
    scores = SCORES.clone()
    for token, times in lowered.items():
        scores[token] -= 1.5 * times
    counts = first_tokens({name: 1.5}, SCORES)
    assert abs(chi_square(counts, 5000 * scores.double().softmax(-1).numpy())) < 4


def test_the_frequency_penalty_counts_and_the_presence_penalty_does_not():
    ids, scores = torch.tensor([[1, 2, 3, 3, 2, 3]]), torch.zeros(1, 5)
    (both,) = history_processors(Sampling(presence_penalty=0.5, frequency_penalty=1), 2, (), CPU)
    assert both(ids, scores).tolist() == [[0, 0, -1.5, -3.5, 0]]


# --- one random number ---


def test_numbers_are_uniform_and_independent_of_one_another():
    numbers = np.array([[uniform(seed, position) for position in range(50)] for seed in range(200)])
    assert abs(chi_square(np.histogram(numbers, 20, (0, 1))[0], np.full(20, 500.0))) < 4
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.05
    # The same on every machine and for every version of numpy.
    assert [uniform(0, 0), uniform(7, 3)] == NUMBERS


NUMBERS = [0.011546754286331562, 0.44205212947108785]


def test_no_number_leads_to_a_forbidden_token():
    scores = torch.full((4, 6), -math.inf)
    scores[:, [1, 3]] = torch.tensor([0.3, 0.1])
    assert draw(scores, [0.0, 0.5, 0.6, 1 - 2**-53]) == [1, 1, 3, 3]


def test_nothing_left_to_come_is_told():
    with pytest.raises(GenerationError, match="no token is left that may come next: bad_words_ids"):
        draw(torch.full((1, 6), -math.inf), [0.5])


# --- the draft ---


def drafts_at(temperatures, tree):
    """The guesses and trees of a second pass, of rows with these temperatures and one first token."""
    hooks, streams = hooked("llama")
    samplings = [Sampling(temperature=temperature, seed=1, top_k=1) for temperature in temperatures]
    requests = [request(PROMPTS[0], sampling, StreamDrafter(streams)) for sampling in samplings]
    for one in requests:
        one.tree = tree
    scheduler = Scheduler(Step(hooks))
    rows = scheduler.admit(requests)
    scheduler.run_pass()
    assert len({tuple(row.result.token_ids) for row in rows}) == 1
    return [row.guesses for row in rows], [fixed_tree(row, len(rows)) for row in rows]


def test_a_draft_sees_the_temperature_of_its_row_and_widens_with_it():
    temperatures = [0.2, 1.0, 5.0]
    (cold, plain, hot), (narrow, _, wide) = drafts_at(temperatures, TreeConfig("best_first", 16, VOCABULARY))
    logits = torch.tensor(plain.scores)  # of all tokens, so that they are logits
    for guesses, temperature in zip((cold, plain, hot), temperatures, strict=True):
        assert guesses.tokens == plain.tokens
        torch.testing.assert_close(torch.tensor(guesses.scores), (logits / temperature).log_softmax(-1))
    assert max(narrow.depths) == GAMMA
    assert narrow.depths.count(1) < wide.depths.count(1)
    alone = drafts_at([5.0], TreeConfig("best_first", 16, VOCABULARY))[1]
    assert alone[0].tokens == wide.tokens
