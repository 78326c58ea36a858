"""Every tested architecture says, streamed, what transformers' own `generate` makes it say, token for token."""

import functools

import pytest
from conftest import VOCABULARY
from covering import covering
from decoder import Decoder
from oracle import ALL, TOKENS, TOP_K, Oracle, adapted, decode
from tiny_architectures import ARCHITECTURES, WINDOW, targets_of, tiny

from ssft.decoding.config import TREE_KINDS, TreeConfig

NAMES = sorted(ARCHITECTURES)
DRAFTS = ["never", "sometimes", "always"]
ROWS = {"batch1": [1], "batch3": ALL}


@functools.cache
def subject_of(name):
    return adapted(tiny(name), targets=targets_of(name))


@covering(name=NAMES, drafts=DRAFTS, kind=TREE_KINDS, rows=ROWS)
def test_any_drafts_give_transformers_own_text(name, drafts, kind, rows):
    subject = subject_of(name)
    oracle = Oracle(subject, TreeConfig(kind, 16, TOP_K), drafts, rows)
    for row, result in zip(rows, decode(oracle, rows), strict=True):
        assert result.token_ids == subject.texts[row][:TOKENS]
        assert result.calls < TOKENS if drafts != "never" else result.calls == TOKENS


@pytest.mark.parametrize("name", NAMES)
def test_trees_that_are_wider_than_a_window_give_transformers_own_text(name):
    subject = subject_of(name)
    decoder = Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 4 * WINDOW, VOCABULARY))
    results = decode(decoder, ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]


@pytest.mark.parametrize("name", NAMES)
def test_its_text_is_no_loop(name):
    assert all(len(set(text[:TOKENS])) > 4 for text in subject_of(name).texts)
