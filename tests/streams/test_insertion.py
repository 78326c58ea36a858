"""Streams on a model's own layers: the main stream stays untouched, and a stream sees exactly what it may see."""

from contextlib import nullcontext

import pytest
import torch
from conftest import LAYERS, TINY, VOCABULARY, random_ids, with_adapter
from covering import covering, over_architectures
from decoder import Decoder

from ssft.decoding.budget.fixed import fixed_sources, padded
from ssft.decoding.config import TreeConfig
from ssft.decoding.row import Row
from ssft.decoding.tree import DraftTree
from ssft.errors import ConfigError, UnsupportedArchitectureError
from ssft.streams import attention
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import attach_streams, streams_of
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan

GAMMA = 3
SOURCES = [2, 5, 9]
LENGTH = 12


IDENTIFIERS = ["embedding", "rotation"]
FORMS = {"identifier": IDENTIFIERS, "projection_rank": [0, 2]}


@pytest.fixture
def config(identifier, projection_rank):
    return StreamConfig(GAMMA, 2, identifier, projection_rank)


def build(architecture, config, **changes):
    """An adapted tiny model with random stream parameters; no hooks yet."""
    return with_adapter(TINY[architecture](**changes), config)


def run(model, hooks=None, plan=None, ids=None, **arguments):
    with torch.no_grad(), announced(Pass(plan)) if plan is not None else nullcontext():
        return model(input_ids=ids, **arguments)


def plan_for(model, sources=None, batch=1):
    return StreamPlan(streams_of(model), torch.tensor([sources or SOURCES] * batch), GAMMA)


def close(a, b, tolerance=5e-6):
    """Equal up to what another shape of the matrix products changes in float32, relative to the largest value.

    Over 12 seeds that was at most 3.6e-6, with every identifier and window; in float64 it is below 1e-7.
    """
    assert a.shape == b.shape
    error = (a - b).abs().max() / b.abs().max()
    assert error <= tolerance, f"relative error {error:.2e}"


# --- the main stream is the unchanged model ---


@over_architectures(**FORMS)
def test_adapter_and_streams_are_no_identity(architecture, config):
    ids = random_ids(1, LENGTH)
    base = run(TINY[architecture](), ids=ids).logits
    model = build(architecture, config)
    assert (run(model, ids=ids).logits - base).abs().max() > 0.5
    hooks, plan = StreamHooks(model), plan_for(model)
    run(model, hooks, plan, ids)
    streams = plan.streams.unflatten(1, (-1, GAMMA))
    assert (streams[:, :, 0] - streams[:, :, 1]).abs().max() > 0.01
    assert (streams[:, :, 0] - plan.main[:, SOURCES]).abs().max() > 0.1


@over_architectures(**FORMS)
def test_one_row_with_streams_has_the_logits_of_the_unhooked_model(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    plain = run(model, ids=ids).logits
    hooks = StreamHooks(model)
    assert torch.equal(run(model, ids=ids).logits, plain)  # hooked, no plan
    close(run(model, hooks, plan_for(model), ids).logits, plain)


@over_architectures(**FORMS, masked={"no_mask": False, "mask": True})
def test_right_padded_batch_has_the_logits_of_the_unhooked_model(architecture, config, masked):
    ids, lengths = random_ids(3, LENGTH), [LENGTH, 7, 4]
    mask = torch.tensor([[1] * n + [0] * (LENGTH - n) for n in lengths])
    model = build(architecture, config)
    plain = run(model, ids=ids, attention_mask=mask).logits
    hooks = StreamHooks(model)
    plan = StreamPlan(streams_of(model), torch.tensor([[2, 9], [3, 6], [0, 3]]), GAMMA)
    logits = run(model, hooks, plan, ids, attention_mask=mask if masked else None).logits
    for row, length in enumerate(lengths):
        close(logits[row, :length], plain[row, :length])
        alone = StreamPlan(streams_of(model), plan.sources[row : row + 1], GAMMA)
        run(model, hooks, alone, ids[row : row + 1, :length])
        close(plan.streams[row], alone.streams[0])


@over_architectures(**FORMS)
def test_left_padding_changes_nothing(architecture, config):
    ids, pad = random_ids(1, LENGTH), 3
    model = build(architecture, config)
    hooks = StreamHooks(model)
    alone = plan_for(model)
    logits = run(model, hooks, alone, ids).logits
    padded = torch.cat((random_ids(1, pad, seed=9), ids), dim=1)
    mask = torch.tensor([[0] * pad + [1] * LENGTH])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    plan = plan_for(model, [t + pad for t in SOURCES])
    close(run(model, hooks, plan, padded, attention_mask=mask, position_ids=positions).logits[:, pad:], logits)
    close(plan.streams, alone.streams)


@over_architectures(**FORMS)
def test_cache_of_main_rows_is_the_one_without_streams(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    plain = run(model, ids=ids, use_cache=True).past_key_values
    hooks = StreamHooks(model)
    streamed = run(model, hooks, plan_for(model), ids, use_cache=True).past_key_values
    for index, (a, b) in enumerate(zip(plain.layers, streamed.layers, strict=True)):
        extra = GAMMA * len(SOURCES) if index >= LAYERS - 2 else 0
        assert b.keys.shape[2] == LENGTH + extra
        close(b.keys[:, :, :LENGTH], a.keys)
        close(b.values[:, :, :LENGTH], a.values)


@over_architectures(**FORMS)
def test_stream_parameters_never_reach_the_main_stream(architecture, config):
    ids = random_ids(2, LENGTH)
    model = build(architecture, config)
    hooks = StreamHooks(model)
    before, after = plan_for(model, batch=2), plan_for(model, batch=2)
    first = run(model, hooks, before, ids, use_cache=True)
    parameters = list(streams_of(model).parameters())
    if not parameters:
        # Value rotation without f_η: the angle is all there is.
        after.modules.config.num_streams += 2
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=3.0)
    second = run(model, hooks, after, ids, use_cache=True)
    assert torch.equal(first.logits, second.logits)
    for a, b in zip(first.past_key_values.layers, second.past_key_values.layers, strict=True):
        assert torch.equal(a.keys[:, :, :LENGTH], b.keys[:, :, :LENGTH])
        assert torch.equal(a.values[:, :, :LENGTH], b.values[:, :, :LENGTH])
    assert (before.streams - after.streams).abs().max() > 0.1


@over_architectures(**FORMS)
def test_removed_hooks_leave_the_model_as_before(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    base = model.get_base_model()
    previous = base.config._attn_implementation
    hooked = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    plain = run(model, ids=ids).logits
    hooks, plan = StreamHooks(model), plan_for(model)
    assert base.config._attn_implementation == attention.IMPLEMENTATION != previous
    run(model, hooks, plan, ids)
    hooks.remove()
    assert base.config._attn_implementation == previous
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooked
    late = plan_for(model)
    assert torch.equal(run(model, hooks, late, ids).logits, plain)
    assert late.streams is None


# --- streams against an independent computation ---


def naive_streams(model, ids, source, config):
    """Streams of one source, written down afresh.

    In the top layers [M_0..M_t, S_1..S_γ] is an ordinary causal sequence at positions 0..t+γ. The values of rotated
    streams are turned by a hook on `v_proj`, pair by pair.
    """
    base, modules = model.get_base_model(), streams_of(model)
    decoder, first = base.get_decoder(), LAYERS - config.num_msa_layers
    with torch.no_grad():
        inputs = base(input_ids=ids[:, : source + 1], output_hidden_states=True).hidden_states[first]
        start = inputs[:, -1]
        if config.projection_rank:
            start = start + modules.projection_up @ (modules.projection_down @ start[0])
        streams = [
            start + (modules.stream_embeddings[j] if config.identifier == "embedding" else 0) for j in range(GAMMA)
        ]
        hidden = torch.cat((inputs, torch.stack(streams, dim=1)), dim=1)
        arguments = {"attention_mask": None, "position_ids": torch.arange(hidden.shape[1])[None]}
        if hasattr(decoder, "rotary_emb"):
            arguments["position_embeddings"] = decoder.rotary_emb(hidden, arguments["position_ids"])
        width = base.config.hidden_size // base.config.num_attention_heads

        def rotate(_module, _inputs, output):
            output = output.clone()
            for j in range(1, GAMMA + 1):
                angle = torch.tensor(j * torch.pi / (2 * GAMMA))
                pairs = output[:, source + j].view(-1, 2, width // 2)
                turned = torch.complex(pairs[:, 0], pairs[:, 1]) * torch.polar(torch.tensor(1.0), angle)
                output[:, source + j] = torch.stack((turned.real, turned.imag), dim=1).view(1, -1)
            return output

        for layer in decoder.layers[first:]:
            handle = layer.self_attn.v_proj.register_forward_hook(rotate) if config.identifier == "rotation" else None
            hidden = layer(hidden, **arguments)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            if handle:
                handle.remove()
    return hidden[0, source + 1 :]


@over_architectures(**FORMS)
def test_streams_equal_a_naive_computation(architecture, config):
    ids = random_ids(1, LENGTH)
    model = build(architecture, config)
    expected = [naive_streams(model, ids, source, config) for source in SOURCES]
    hooks, plan = StreamHooks(model), plan_for(model)
    run(model, hooks, plan, ids)
    close(plan.streams[0], torch.cat(expected))


def test_stream_j_stands_j_positions_behind_its_source():
    plan = StreamPlan(None, torch.tensor([[1, 3], [0, 2]]), 2)
    positions = plan.positions(torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]]))
    assert positions.tolist() == [[2, 3, 4, 5], [8, 9, 10, 11]]


def assert_both_paths_agree(model):
    """In float64, where a wrong order or mask shows and the order of additions does not.

    The paths multiply matrices of other shapes (the tree's rows on a cache, or one sequence), and in float32 four
    layers let that grow to 3.6e-6, with every identifier and window, as the CPU adds up. The norms and the rotary
    angles of transformers stay in float32: they leave up to 6e-8 here.
    """
    model = model.double()
    decoder = Decoder(StreamHooks(model), streams_of(model))
    sources, _ = decode_pass(decoder, PROMPTS, TREES)
    for row, (prompt, tree) in enumerate(zip(PROMPTS, TREES, strict=True)):
        for node in range(len(tree)):
            path = [tree.tokens[i] for i in ancestors(tree, node)]
            ids = torch.tensor([prompt + path])
            plan = plan_for(model, [ids.shape[1] - 1])
            run(model, decoder.hooks, plan, ids)
            close(sources[row, node], plan.streams[0], tolerance=2e-7)


@over_architectures(**FORMS)
def test_decoding_path_computes_the_streams_of_the_training_path(architecture, config):
    assert_both_paths_agree(build(architecture, config))


@covering(window=[2, 3, 6], **FORMS)
def test_both_paths_agree_on_a_sliding_window(config, window):
    assert_both_paths_agree(build("mistral", config, sliding_window=window))


# --- masks, by probing ---


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


@pytest.fixture
def chunks(sources, monkeypatch):
    """Training attention in one chunk, or forced into several."""
    if sources:
        monkeypatch.setattr(attention, "sources_per_chunk", lambda scores: sources)


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


PROMPTS = [[5, 9, 11, 30, 7], [40, 8]]
TREES = [
    # 1 ─┬─ 2 ─┬─ 4
    #    │     └─ 5
    #    └─ 3 ─── 6
    DraftTree([1, 2, 3, 4, 5, 6], [-1, 0, 0, 1, 1, 2], [0, 1, 1, 2, 2, 2], [0.0] * 6),
    DraftTree([17, 18, 19], [-1, 0, 1], [0, 1, 2], [0.0] * 3),
]


def ancestors(tree, node):
    """Nodes from the root down to `node`."""
    return [] if node < 0 else [*ancestors(tree, tree.parents[node]), node]


def rows_of(decoder, prompts, trees):
    """Rows of a batch as the engine holds them, with their next draft made to order."""
    return [Row(decoder.request(prompt, 9), 9, tree) for prompt, tree in zip(prompts, trees, strict=True)]


def sources_of(rows):
    """Every node of every tree."""
    return padded([fixed_sources(row) for row in rows])


def decode_pass(decoder, prompts, trees, before_tree=lambda: None):
    """Streams [B, n, γ, h] and main states [B, n, h] of a tree pass after the prompts' pass, every node a source."""
    with torch.inference_mode():
        rows = rows_of(decoder, prompts, trees)
        _, cache = decoder.step.prompts(rows)
        before_tree()
        states = decoder.step.trees(rows, sources_of(rows), cache)
        streams = states.streams
        nodes = max(len(tree) for tree in trees)
        ordered = torch.zeros(len(trees), nodes, *streams.shape[2:])
        for row, sources in enumerate(states.sources):
            for slot, node in enumerate(sources):
                ordered[row, node] = streams[row, slot]
    return ordered, states.main


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


# --- gradients ---


def gradients(model, hooks, ids, mask=None):
    """Loss over main rows and streams, and the gradient of every trainable parameter."""
    model.zero_grad()
    plan = plan_for(model, batch=ids.shape[0])
    with announced(Pass(plan)):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss = logits.square().mean() + plan.streams.square().mean()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return loss.detach(), found


def assert_same_gradients(a, b):
    assert a.keys() == b.keys()
    assert all(grad.abs().max() > 0 for grad in a.values())
    for name in a:
        close(a[name], b[name], tolerance=1e-4)


@over_architectures(**FORMS, padded={"whole": False, "padded": True})
def test_chunks_change_neither_values_nor_gradients(architecture, config, padded, monkeypatch):
    ids = random_ids(2, LENGTH)
    mask = torch.tensor([[0, 0, *[1] * (LENGTH - 2)], [1] * LENGTH]) if padded else None
    model = build(architecture, config)
    hooks = StreamHooks(model)
    whole, expected = gradients(model, hooks, ids, mask)
    for sources in (1, 2):
        monkeypatch.setattr(attention, "sources_per_chunk", lambda scores, sources=sources: sources)
        parts, found = gradients(model, hooks, ids, mask)
        torch.testing.assert_close(parts, whole)
        assert_same_gradients(expected, found)


@over_architectures(identifier=IDENTIFIERS)
def test_every_stream_parameter_gets_a_gradient(architecture, identifier):
    config = StreamConfig(GAMMA, 2, identifier, 2)
    model = build(architecture, config)
    _, found = gradients(model, StreamHooks(model), random_ids(1, LENGTH))
    names = [name.rsplit(".", 1)[-1] for name in found if "ssft_streams" in name]
    expected = {"projection_down", "projection_up"} | ({"stream_embeddings"} if identifier == "embedding" else set())
    assert set(names) == expected


@over_architectures(**FORMS, sources={"one_chunk": None, "chunks": 1})
def test_checkpointed_layers_have_the_same_gradients(architecture, config, chunks):
    ids = random_ids(2, LENGTH)
    model = build(architecture, config).train()
    hooks = StreamHooks(model)
    loss, expected = gradients(model, hooks, ids)
    base = model.get_base_model()
    runs = []
    base.get_decoder().layers[-1].self_attn.register_forward_hook(lambda *_: runs.append(1))
    base.activation_checkpointing_enable({"use_reentrant": False})
    again, found = gradients(model, hooks, ids)
    assert len(runs) == 2  # forward and recomputation: checkpointing was on
    assert torch.equal(loss, again)
    assert_same_gradients(expected, found)


# --- what cannot work is refused ---


def test_opt_with_layerdrop_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match=r"layerdrop=0.1.*set config.layerdrop=0"):
        StreamHooks(TINY["opt"](layerdrop=0.1))


@pytest.mark.parametrize("layers", [LAYERS, LAYERS + 1])
def test_streams_above_no_layer_are_refused(architecture, layers):
    model = with_adapter(TINY[architecture]())
    with pytest.raises(ConfigError, match=rf"num_msa_layers={layers}: the base has 4 layers.*from 1 to 3"):
        attach_streams(model, StreamConfig(GAMMA, layers))


def test_no_stream_layer_is_refused():
    with pytest.raises(ConfigError, match="num_msa_layers=0: streams need at least one layer"):
        StreamConfig(GAMMA, 0).check_streams()
