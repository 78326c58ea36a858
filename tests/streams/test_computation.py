"""Streams are what an independent, naive computation gives, in training and, the same, in decoding."""

import torch
from conftest import LAYERS, random_ids
from covering import covering, over_architectures
from decoder import Decoder
from inserted_streams import FORMS, GAMMA, LENGTH, SOURCES, build, close, plan_for, run
from tree_passes import PROMPTS, TREES, ancestors, decode_pass

from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of
from ssft.streams.plan import StreamPlan


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
