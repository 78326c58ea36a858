"""Branches are dropped inside a pass of every tested architecture, and no text changes."""

import pytest
from conftest import VOCABULARY
from decoder import Decoder
from oracle import ALL, GAMMA, TOKENS, adapted, decode
from tiny_architectures import ARCHITECTURES, WINDOW, targets_of, tiny

from ssft.decoding.config import TreeConfig
from ssft.decoding.prune import Pruning
from ssft.streams.config import StreamConfig


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_what_is_left_gives_transformers_own_text(name, monkeypatch):
    subject = adapted(tiny(name), config=StreamConfig(GAMMA, 2, prune_head_rank=2), targets=targets_of(name))
    dropped = []
    real = Pruning._left

    def left(self, main):
        result = real(self, main)
        dropped.append(0 if result is None else main.shape[1] - result.num_main)
        return result

    monkeypatch.setattr(Pruning, "_left", left)
    tree = TreeConfig("best_first", 4 * WINDOW, VOCABULARY, prune_keep=2 * WINDOW)
    results = decode(Decoder(subject.hooks, subject.streams, tree), ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
    assert sum(dropped) > 0
