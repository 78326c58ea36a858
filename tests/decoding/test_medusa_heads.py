"""Medusa heads: what they start as, what they compute, and settings out of range."""

import pytest
import torch
from conftest import TINY

from ssft.decoding.draft.medusa_heads import MedusaConfig, MedusaHeads
from ssft.errors import ConfigError

HIDDEN = 64


def test_fresh_heads_say_what_the_base_says(architecture):
    model = TINY[architecture]()
    head = model.get_output_embeddings()
    heads = MedusaHeads.from_base(MedusaConfig(num_heads=3, num_layers=2), head)
    states = torch.randn(2, 5, HIDDEN)
    logits = heads(states)
    assert logits.shape == (2, 5, 3, head.weight.shape[0])
    for j in range(3):
        assert torch.equal(logits[:, :, j], head(states))
    assert all(p.dtype == torch.float32 for p in heads.parameters())


def test_fresh_heads_share_no_memory_with_the_base():
    model = TINY["llama"]()
    head = model.get_output_embeddings()
    before = head.weight.clone()
    heads = MedusaHeads.from_base(MedusaConfig(), head)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(1)
    assert torch.equal(head.weight, before)


def test_a_head_is_residual_blocks_and_a_vocabulary_matrix():
    torch.manual_seed(0)
    heads = MedusaHeads(MedusaConfig(num_heads=2, num_layers=2), 8, 11)
    x = torch.randn(3, 8)
    expected = x
    for block in heads.heads[1].blocks:
        z = expected @ block.weight.T + block.bias
        expected = expected + z * torch.sigmoid(z)
    torch.testing.assert_close(heads(x)[:, 1], expected @ heads.heads[1].output.weight.T)
    assert heads.count() == 2 * (2 * (8 * 8 + 8) + 11 * 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, "medusa.num_heads=0: must lie between 1 and 16"),
        ({"num_heads": 17}, "medusa.num_heads=17"),
        ({"num_layers": 0}, "medusa.num_layers=0: must lie between 1 and 8"),
        ({"loss_decay": 0.0}, "medusa.loss_decay=0.0: must lie above 0"),
        ({"loss_decay": 1.5}, "medusa.loss_decay=1.5"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        MedusaHeads(MedusaConfig(**settings), 8, 11)


def test_a_quantised_head_is_refused():
    head = torch.nn.Linear(8, 11, bias=False)
    head.weight = torch.nn.Parameter(torch.zeros(11, 8, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match=r"stored as torch.uint8.*whose head is not quantised"):
        MedusaHeads.from_base(MedusaConfig(), head)
