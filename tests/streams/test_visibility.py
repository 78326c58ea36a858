"""A stream sees exactly what it may see, and nothing of it reaches the text: probed by changing one thing at a time."""

import pytest
import torch
from conftest import VOCABULARY, random_ids
from covering import over_architectures
from decoder import Decoder
from inserted_streams import FORMS, GAMMA, IDENTIFIERS, LENGTH, SOURCES, build, plan_for, run
from tree_passes import PROMPTS, TREES, ancestors, decode_pass, rows_of, sources_of

from ssft.decoding.config import TreeConfig
from ssft.decoding.tree import DraftTree
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of


class Nudge:
    """While active, pushes stream `stream` of the `group`-th source of row 0 at the insertion layer."""

    def __init__(self, monkeypatch, modules):
        self.target = None
        insert = modules.insert

        def nudged(main, num_streams):
            streams = insert(main, num_streams)
            if self.target is not None:
                group, stream = self.target
                noise = torch.zeros_like(streams)
                noise[0, group * num_streams + stream] = 5.0
                streams = streams + noise
            return streams

        monkeypatch.setattr(modules, "insert", nudged)

    def aim(self, target):
        self.target = target


CHUNKS = {"one_chunk": None, "a_source_per_chunk": 1, "two_sources_per_chunk": 2}


@over_architectures(identifier=IDENTIFIERS, sources=CHUNKS)
def test_training_stream_sees_tokens_up_to_its_source_only(architecture, identifier, chunks):
    ids = random_ids(1, LENGTH)
    model = build(architecture, StreamConfig(GAMMA, 2, identifier))
    hooks, before = StreamHooks(model), plan_for(model)
    run(model, hooks, before, ids)
    for position in range(LENGTH):
        changed, after = ids.clone(), plan_for(model)
        changed[0, position] = (changed[0, position] + 7) % VOCABULARY
        run(model, hooks, after, changed)
        moved = (before.streams != after.streams).any(-1)[0].view(-1, GAMMA)
        assert moved.tolist() == [[position <= source] * GAMMA for source in SOURCES]


@over_architectures(identifier=IDENTIFIERS, sources=CHUNKS, layers=[1, 2])
def test_training_stream_sees_earlier_streams_of_its_own_source_only(
    architecture, identifier, chunks, layers, monkeypatch
):
    ids = random_ids(1, LENGTH)
    model = build(architecture, StreamConfig(GAMMA, layers, identifier))
    hooks, nudge, before = StreamHooks(model), Nudge(monkeypatch, streams_of(model)), plan_for(model)
    logits = run(model, hooks, before, ids).logits
    for group in range(len(SOURCES)):
        for stream in range(GAMMA):
            after, nudge.target = plan_for(model), (group, stream)
            assert torch.equal(run(model, hooks, after, ids).logits, logits)
            moved = (before.streams != after.streams).any(-1)[0].view(-1, GAMMA)
            expected = torch.zeros_like(moved)
            expected[group, stream:] = True
            assert moved.tolist() == expected.tolist()


@pytest.fixture
def decoder(architecture, identifier):
    model = build(architecture, StreamConfig(GAMMA, 2, identifier))
    return Decoder(StreamHooks(model), streams_of(model))


@over_architectures(identifier=IDENTIFIERS)
def test_decoding_stream_sees_prefix_and_own_ancestors_only(decoder):
    before, main = decode_pass(decoder, PROMPTS, TREES)
    tree, rest = TREES
    for changed in range(len(tree)):
        tokens = [(t + 7) % VOCABULARY if i == changed else t for i, t in enumerate(tree.tokens)]
        other = DraftTree(tokens, tree.parents, tree.depths, tree.scores)
        after, other_main = decode_pass(decoder, PROMPTS, [other, rest])
        for node in range(len(tree)):
            seen = changed in ancestors(tree, node)
            for stream in range(GAMMA):
                assert torch.equal(before[0, node, stream], after[0, node, stream]) == (not seen)
            assert torch.equal(main[0, node], other_main[0, node]) == (not seen)
        assert torch.equal(before[1], after[1])
    for position in range(len(PROMPTS[0])):
        prompt = list(PROMPTS[0])
        prompt[position] = (prompt[position] + 7) % VOCABULARY
        after, _ = decode_pass(decoder, [prompt, PROMPTS[1]], TREES)
        assert (before[0] != after[0]).any(-1).all()
        assert torch.equal(before[1], after[1])


@over_architectures(identifier=IDENTIFIERS)
def test_decoding_stream_sees_earlier_streams_of_its_own_node_only(decoder, monkeypatch):
    nudge = Nudge(monkeypatch, decoder.streams)
    before, main = decode_pass(decoder, PROMPTS, TREES)
    for group, node in enumerate(sources_of(rows_of(decoder, PROMPTS, TREES))[0]):
        for stream in range(GAMMA):
            nudge.target = None
            after, other_main = decode_pass(decoder, PROMPTS, TREES, lambda at=(group, stream): nudge.aim(at))
            moved = (before[0] != after[0]).any(-1)
            expected = torch.zeros_like(moved)
            expected[node, stream:] = True
            assert moved.tolist() == expected.tolist()
            assert torch.equal(before[1], after[1])
            assert torch.equal(main, other_main)


@over_architectures(**FORMS)
def test_decoding_stream_parameters_never_reach_main_states_or_cache(architecture, config):
    model = build(architecture, config)
    # A fixed depth: below, γ changes to turn the values by another angle, not to add streams.
    decoder = Decoder(StreamHooks(model), streams_of(model), TreeConfig(max_depth=GAMMA))

    def kept():
        with torch.inference_mode():
            rows = rows_of(decoder, PROMPTS, TREES)
            _, cache = decoder.step.prompts(rows)
            states = decoder.step.trees(rows, sources_of(rows), cache)
            cache.keep([[0, 2, 5], [0, 1]])
            return states, [cache.store[:, :, b, :, :length] for b, length in enumerate(cache.lengths)]

    first, before = kept()
    parameters = list(decoder.streams.parameters())
    if not parameters:
        decoder.streams.config.num_streams += 2
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=3.0)
    second, after = kept()
    assert torch.equal(first.main, second.main)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (first.streams - second.streams).abs().max() > 0.1
