"""Streams of a mixed batch: each row gets exactly what its own adapter would give it alone."""

import pytest
import torch

from ssft.streams.config import StreamConfig
from ssft.streams.mixed import MixedStreams, streams_of_rows
from ssft.streams.modules import StreamModules

H, SOURCES, G = 16, 3, 5


def modules(seed, *settings):
    torch.manual_seed(seed)
    made = StreamModules(StreamConfig(*settings), H)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.requires_grad_(False)


A = modules(1, 5, 2)
B = modules(2, 2, 4, "embedding", 3)
C = modules(3, 3, 4, "rotation")
ROWS = [A, A, None, B, C, None, A]


@pytest.fixture
def mixed():
    return MixedStreams(ROWS)


@pytest.fixture
def main():
    torch.manual_seed(4)
    return torch.randn(len(ROWS), SOURCES, H)


def test_rows_side_by_side_are_one_run(mixed):
    assert [(run.start, run.stop, owner) for run, owner in mixed.runs] == [(0, 2, A), (3, 4, B), (4, 5, C), (6, 7, A)]
    assert mixed.msa_layers == (4, 2)


def own(streams, row):
    """[S, G, H] of one row."""
    return streams[row].view(SOURCES, G, H)


def test_streams_start_at_their_own_layer(mixed, main):
    early = mixed.insert(main, G)
    assert early.shape == (len(ROWS), SOURCES * G, H)
    for row, owner in enumerate(ROWS):
        if owner in (B, C):
            gamma = owner.config.num_streams
            expected = owner.insert(main[row : row + 1], gamma).view(SOURCES, gamma, H)
            assert torch.equal(own(early, row)[:, :gamma], expected)
    later = torch.randn(early.shape, generator=torch.Generator().manual_seed(5))
    before = later.clone()
    states = main + 1
    mixed.restart(later, states, G, 2)
    for row, owner in enumerate(ROWS):
        if owner is A:
            assert torch.equal(later[row], A.insert(states[row : row + 1], G)[0])
        else:
            assert torch.equal(later[row], before[row])


def test_only_rows_that_rotate_are_rotated(mixed):
    values = torch.randn(len(ROWS), 2, SOURCES * G, 8)
    before = values.clone()
    rotated = mixed.rotate_values(values, G)
    assert torch.equal(values, before)
    for row, owner in enumerate(ROWS):
        expected = C.rotate_values(values[row : row + 1], G)[0] if owner is C else values[row]
        assert torch.equal(rotated[row], expected)
    assert not torch.equal(rotated[4], values[4])
    assert mixed.rotates
    assert not MixedStreams([A, None, B]).rotates


def test_one_adapter_needs_no_mixing():
    assert streams_of_rows([A, A]) is A
    assert streams_of_rows([None, None]) is None
    assert isinstance(streams_of_rows([A, None]), MixedStreams)
