"""How the streams' gradient joins the text's: against what is worked out by hand, alone and through a trainer."""

import pytest
import torch
from tiny_trainer import make_trainer

from ssft.streams.modules import CONTAINER
from ssft.training import loss
from ssft.training.gradients import joined, projected, scaled

BY_HAND = {"scaled": scaled, "projected": projected}


@pytest.mark.parametrize(
    ("main", "streams", "expected"),
    [
        pytest.param([3.0, 4.0], [0.0, 10.0], [0.0, 5.0], id="longer"),
        pytest.param([3.0, 4.0], [0.0, 2.0], [0.0, 2.0], id="shorter"),
        pytest.param([[3.0], [4.0]], [[-6.0], [8.0]], [[-3.0], [4.0]], id="a_matrix"),
        pytest.param([0.0, 0.0], [1.0, 1.0], [0.0, 0.0], id="a_text_at_rest"),
        pytest.param([1.0, 2.0], [0.0, 0.0], [0.0, 0.0], id="streams_at_rest"),
    ],
)
def test_scaled(main, streams, expected):
    torch.testing.assert_close(scaled(torch.tensor(main), torch.tensor(streams)), torch.tensor(expected))


@pytest.mark.parametrize(
    ("main", "streams", "expected"),
    [
        pytest.param([1.0, 0.0], [-2.0, 3.0], [0.0, 3.0], id="against"),
        pytest.param([1.0, 0.0], [2.0, 3.0], [2.0, 3.0], id="along"),
        pytest.param([[1.0, 1.0], [0.0, 0.0]], [[-1.0, 0.0], [5.0, 5.0]], [[-0.5, 0.5], [5.0, 5.0]], id="a_matrix"),
        pytest.param([0.0, 0.0], [1.0, 1.0], [1.0, 1.0], id="a_text_at_rest"),
    ],
)
def test_projected(main, streams, expected):
    torch.testing.assert_close(projected(torch.tensor(main), torch.tensor(streams)), torch.tensor(expected))


def test_joined_gives_the_value_of_both_and_a_gradient_of_its_own():
    shared, own = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor([5.0]))
    main = 3.0 * shared[0]  # gradient [3, 0]
    streams = -2.0 * shared[0] + 4.0 * shared[1] + 7.0 * own.sum()  # gradients [-2, 4] and [7]
    total = joined(main, streams, [shared], [own], "projected")
    assert total.item() == (main + streams).item()
    (2 * total).backward()
    assert shared.grad.tolist() == [6.0, 8.0]
    assert own.grad.tolist() == [14.0]


@pytest.fixture
def trainer(tmp_path):
    made = make_trainer(tmp_path, "llama", activation_checkpointing=False)
    randomise(made)
    return made


def randomise(trainer):
    """B other than zero, so that every tensor of the LoRA has a gradient."""
    torch.manual_seed(5)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def gradients(trainer, **settings):
    """Of all parameters that train, on the first batch, with these settings."""
    vars(trainer.args).update(settings)
    trainer.model.train()
    trainer.model.zero_grad()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [2048, 16], ids=["whole", "chunks"])
@pytest.mark.parametrize("how", BY_HAND)
def test_a_step_of_the_trainer_is_joined_tensor_by_tensor(trainer, how, rows, monkeypatch):
    monkeypatch.setattr(loss, "HEAD_ROWS", rows)
    main = gradients(trainer, stream_loss_weight=0.0)
    streams = gradients(trainer, stream_loss_weight=0.5, main_loss_weight=0.0)
    both = gradients(trainer, stream_loss_weight=0.5, main_loss_weight=1.0, stream_gradient=how)
    assert both.keys() == main.keys() == streams.keys()
    moved = 0
    for name, found in both.items():
        allowed = streams[name] if CONTAINER in name else BY_HAND[how](main[name], streams[name])
        torch.testing.assert_close(found, main[name] + allowed, rtol=1e-3, atol=1e-6)
        moved += bool((allowed - streams[name]).abs().max() > 1e-4)
    assert moved, "nothing was scaled or projected, so the test shows nothing"


def test_activation_checkpointing_gives_the_same_gradients(tmp_path, trainer):
    expected = gradients(trainer, stream_gradient="projected")
    checkpointed = make_trainer(tmp_path, "llama", activation_checkpointing=True, stream_gradient="projected")
    checkpointed.model.load_state_dict(trainer.model.state_dict())
    checkpointed.model.base_model.activation_checkpointing_enable()
    found = gradients(checkpointed)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("how", BY_HAND)
def test_a_run_of_several_micro_batches_moves_everything(tmp_path, how):
    trainer = make_trainer(
        tmp_path, "llama", activation_checkpointing=False, stream_gradient=how, gradient_accumulation_steps=2
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
