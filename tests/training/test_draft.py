"""The truncated draft: which layers it keeps, and that it computes what they compute."""

import pytest
import torch
from conftest import LAYERS, TINY, random_ids
from torch import nn

from ssft.base.backbone import Backbone
from ssft.errors import ConfigError
from ssft.training.draft import DraftConfig, truncated


@pytest.mark.parametrize(
    ("config", "of", "expected"),
    [
        (DraftConfig(6), 30, [0, 6, 12, 17, 23, 29]),
        (DraftConfig(2), 30, [0, 29]),
        (DraftConfig(1), 30, [0]),
        (DraftConfig(3, "first"), 30, [0, 1, 2]),
        (DraftConfig(29), 30, None),
    ],
)
def test_chosen_layers(config, of, expected):
    chosen = config.chosen(of)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == config.num_layers
    assert expected is None or chosen == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DraftConfig(0), r"draft.num_layers=0: a draft has at least one layer"),
        (DraftConfig(30), r"draft.num_layers=30: the base has 30 layers.*choose a value from 1 to 29"),
    ],
)
def test_impossible_depths(config, message):
    with pytest.raises(ConfigError, match=message):
        config.chosen(30)


@pytest.mark.parametrize("tied", [False, True])
def test_a_draft_computes_what_its_layers_compute(architecture, tied):
    base = TINY[architecture](tie_word_embeddings=tied)
    before = [(value, value.clone()) for value in base.state_dict().values()]
    draft = truncated(base, DraftConfig(2))
    ids = random_ids(2, 7)
    found = draft(input_ids=ids).logits
    # The base itself, with the layers in between taken out by hand.
    decoder = Backbone(base).decoder
    decoder.layers = nn.ModuleList([decoder.layers[0], decoder.layers[LAYERS - 1]])
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = index
    base.config.num_hidden_layers = 2
    torch.testing.assert_close(found, base(input_ids=ids).logits, rtol=0, atol=0)
    assert draft.config.num_hidden_layers == 2
    # Nothing is shared: training the draft leaves the base alone.
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, old) for value, old in before)


def test_layer_types_follow_their_layers():
    base = TINY["llama"]()
    base.config.layer_types = ["a", "b", "c", "full_attention"]
    assert truncated(base, DraftConfig(2)).config.layer_types == ["a", "full_attention"]
