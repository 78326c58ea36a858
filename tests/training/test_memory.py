"""Memory of one training step grows linearly with the completion, however many stream rows that makes."""

import pytest
import torch
from conftest import random_ids, tiny_llama, with_adapter

from ssft.bench.peak_memory import recorded_peak_bytes
from ssft.streams import attention
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training import loss as losses

GAMMA = 4
PROMPT = 16
LENGTHS = (512, 1024, 2048)


@pytest.fixture(scope="module")
def hooks():
    model = tiny_llama(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = with_adapter(model, StreamConfig(GAMMA, 1), rank=1)
    return StreamHooks(model), streams_of(model), model


def step(hooks, completion):
    """Forward, n-gram loss and backward over one row with `completion` tokens that carry a loss."""
    hooks, modules, model = hooks
    model.zero_grad()
    ids = random_ids(1, PROMPT + completion)
    labels = ids.clone()
    labels[:, :PROMPT] = losses.IGNORE
    sources, targets = losses.stream_targets(labels, GAMMA)
    assert sources.shape == (1, completion)
    plan = StreamPlan(modules, sources, GAMMA)
    with announced(Pass(plan)):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    finish = hooks.backbone.finish
    main, streams = finish(plan.main[0, sources[0]]), finish(plan.streams[0].unflatten(0, (-1, GAMMA)))
    losses.ngram_loss(main, streams, targets[0], hooks.backbone.logits, torch.ones(GAMMA + 1)).total.backward()
    assert modules.stream_embeddings.grad.abs().max() > 0


def growth(hooks):
    """(peak(2048) - peak(1024)) / (peak(1024) - peak(512)): 2 if memory is linear, 4 if it is quadratic."""
    small, middle, large = (recorded_peak_bytes(lambda n=n: step(hooks, n)) for n in LENGTHS)
    return (large - middle) / (middle - small)


def test_peak_counts_what_is_alive_at_once():
    def work():
        for _ in range(3):
            a = torch.ones(1_000_000)
            del a

    assert 4_000_000 <= recorded_peak_bytes(work) < 5_000_000


def test_training_memory_is_linear_in_the_completion(hooks, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_SCORES", 2**19)  # what the smallest of these has twice
    assert growth(hooks) <= 2.4


def test_one_chunk_would_not_be_linear(hooks, monkeypatch):
    """The control: all stream rows in one chunk have (S·γ)·R scores, and the measure above sees them."""
    monkeypatch.setattr(attention, "sources_per_chunk", lambda scores: max(LENGTHS))
    assert growth(hooks) > 3
