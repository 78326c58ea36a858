"""Settings of sampling at random."""

import random

from ssft.decoding.sampling import Sampling

SETTINGS = {
    "temperature": [0.3, 0.8, 1, 1.5, 4.0],
    "top_k": [1, 2, 5, 40, 1000],
    "top_p": [0.2, 0.7, 0.95, 1],
    "min_p": [0.01, 0.1, 0.5],
    "typical_p": [0.3, 0.9, 1],
    "repetition_penalty": [0.7, 1.2, 2],
    "presence_penalty": [-1, 0.5, 2],
    "frequency_penalty": [-0.5, 0.3, 1.5],
    "no_repeat_ngram_size": [1, 2, 3],
    "bad_words_ids": [[[7]], [[9, 11], [30]]],
    "sequence_bias": [{(12,): 2.0}, {(12,): -3.0, (5, 8): 4}],
    "min_new_tokens": [0, 5, 19],
}
"""Values from which random settings are drawn."""


def random_sampling(seed, most=5):
    """One to `most` settings at random, and a seed."""
    rng = random.Random(seed)
    names = rng.sample(sorted(SETTINGS), rng.randint(1, most))
    return Sampling(do_sample=True, seed=rng.randrange(2**63), **{name: rng.choice(SETTINGS[name]) for name in names})
