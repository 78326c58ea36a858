"""Fixtures that read the cases of the tests here: the form of the streams, and the chunks of their attention."""

import pytest
from inserted_streams import GAMMA

from ssft.streams import attention
from ssft.streams.config import StreamConfig


@pytest.fixture
def config(identifier, projection_rank):
    """Streams of the case's form, in the two layers on top."""
    return StreamConfig(GAMMA, 2, identifier, projection_rank)


@pytest.fixture
def chunks(sources, monkeypatch):
    """Training attention in one chunk, or forced into several."""
    if sources:
        monkeypatch.setattr(attention, "sources_per_chunk", lambda scores: sources)
