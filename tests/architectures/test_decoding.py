"""Every tested architecture says, streamed, what transformers' own `generate` makes it say, token for token."""

import functools
import logging

import pytest
from conftest import VOCABULARY
from covering import covering
from decoder import Decoder, on
from graph_stand_in import Recording
from oracle import ALL, DRAFTS, ROWS, TOKENS, TOP_K, Oracle, adapted, decode
from tiny_architectures import ARCHITECTURES, WINDOW, targets_of, tiny

from ssft.decoding.config import TREE_KINDS, TreeConfig
from ssft.decoding.static import StaticStep

NAMES = sorted(ARCHITECTURES)
HOST = {
    "falcon": "aten.lift_fresh",  # indexes by a list, which goes to the device as a tensor
    "llama-dynamic": "aten._local_scalar_dense",  # looks how far the positions go
}
"""Architectures whose passes cannot be captured as CUDA graphs, since they need the host in the middle of one."""


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
def test_passes_are_captured_or_it_is_said_why_not(name, caplog):
    subject = subject_of(name)
    step = StaticStep(subject.hooks, Recording())
    decoder = on(step, Decoder(subject.hooks, subject.streams, TreeConfig("best_first", 16, 8)))
    with caplog.at_level(logging.WARNING):
        results = decode(decoder, ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("ssft")]
    if name in HOST:
        assert len(warned) == 1
        assert f"take longer without: {HOST[name]}" in warned[0]
        assert step.capture is None
    else:
        assert not warned
        assert step.capture.replays


@pytest.mark.parametrize("name", NAMES)
def test_its_text_is_no_loop(name):
    assert all(len(set(text[:TOKENS])) > 4 for text in subject_of(name).texts)
