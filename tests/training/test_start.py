"""A text that is to stay where its run began: the divergence against a naive sum, and what is kept over training."""

import pytest
import torch
from tiny_trainer import make_trainer

from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training import start as module
from ssft.training.loss import stream_targets
from ssft.training.start import Start, divergence

WIDTH, VOCABULARY = 6, 11


@pytest.fixture
def head():
    torch.manual_seed(3)
    return torch.nn.Linear(WIDTH, VOCABULARY)


@pytest.mark.parametrize("size", [2048, 4], ids=["whole", "chunks"])
@pytest.mark.parametrize("count", [0, 7])
def test_divergence_equals_a_naive_sum(head, count, size, monkeypatch):
    monkeypatch.setattr(module, "HEAD_ROWS", size)
    main = torch.randn(count, WIDTH, requires_grad=True)
    start = torch.randn(count, WIDTH, requires_grad=True)
    expected = torch.zeros(())
    for m in range(count):
        p, q = head(start[m]).detach().softmax(dim=-1), head(main[m]).softmax(dim=-1)
        expected = expected + sum(p[v] * (p[v].log() - q[v].log()) for v in range(VOCABULARY))
    found = divergence(main, start, head)
    torch.testing.assert_close(found, expected)
    if count:
        (gradient,) = torch.autograd.grad(found, main, retain_graph=True)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, main)[0], rtol=1e-4, atol=1e-6)
        assert torch.autograd.grad(found, start, allow_unused=True) == (None,)
        same = divergence(main, main.detach(), head)
        assert same.item() == pytest.approx(0, abs=1e-6)
        assert torch.autograd.grad(same, main)[0].abs().max() < 1e-6


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def main_states(trainer, batch):
    """What the head reads of the main stream [B, T, h], beside streams."""
    plan = StreamPlan(trainer.streams, stream_targets(batch["labels"], 3)[0], 3)
    with torch.no_grad(), announced(Pass(plan)):
        trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return trainer.hooks.backbone.finish(plan.main)


def spoil(trainer, std=0.2):
    """Another LoRA than the one of the start."""
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)


def test_a_start_says_what_the_main_stream_said_whatever_is_trained_since(tmp_path, architecture):
    trainer = make_trainer(tmp_path, architecture)
    spoil(trainer)
    batch = first_batch(trainer)
    before = main_states(trainer, batch)
    start = Start(trainer.hooks.backbone)
    assert start.values
    spoil(trainer)
    now = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.model.train()
    kept = batch["attention_mask"].bool()
    torch.testing.assert_close(start.states(batch)[kept], before[kept], rtol=1e-4, atol=1e-5)
    assert (main_states(trainer, batch) - before)[kept].abs().max() > 0.01
    assert all(torch.equal(p, now[name]) for name, p in trainer.model.named_parameters())
    assert all(part.training for part in trainer.model.modules())


def gradients(trainer, **settings):
    """Of the LoRA by the main stream's loss alone, on the first batch."""
    vars(trainer.args).update(settings, stream_loss_weight=0.0)
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
    return torch.cat([p.grad.flatten() for name, p in trainer.model.named_parameters() if "lora_" in name])


def test_the_start_pulls_once_the_text_has_left_it(tmp_path):
    trainer = make_trainer(tmp_path, "llama", main_supervision="start")
    spoil(trainer)
    assert gradients(trainer).abs().max() < 1e-6
    spoil(trainer)
    of_start, of_reference = gradients(trainer), gradients(trainer, main_supervision="reference")
    assert of_start.abs().max() > 1e-3
    both = gradients(trainer, main_supervision="both", main_loss_weight=2.0)
    torch.testing.assert_close(both, 2 * (of_start + of_reference), rtol=1e-3, atol=1e-6)


def test_the_log_tells_how_far_the_text_has_gone_and_evaluation_the_reference(tmp_path):
    found = {}
    for supervision in ("reference", "start", "both"):
        trainer = make_trainer(tmp_path, "llama", main_supervision=supervision, max_steps=3, learning_rate=5e-2)
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "loss_main" in entry]
        assert all(entry["loss_main"] > 0.5 for entry in history)
        found[supervision] = [entry.get("divergence") for entry in history]
        batch = first_batch(trainer)
        trainer.model.eval()
        with torch.no_grad():
            told = trainer.compute_loss(trainer.model, batch)
            vars(trainer.args)["main_supervision"] = "reference"
            assert trainer.compute_loss(trainer.model, batch).item() == told.item()
    assert found["reference"] == [None] * 3
    for supervision in ("start", "both"):
        assert found[supervision][0] == pytest.approx(0, abs=1e-5)
        assert found[supervision][2] > 1e-3


def test_a_resumed_run_stays_with_the_start_of_the_first(tmp_path):
    words = {"main_supervision": "start", "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    first = make_trainer(tmp_path, "llama", **words)
    first.train()
    again = make_trainer(tmp_path, "llama", **words | {"max_steps": 3})
    again.model.load_state_dict(first.model.state_dict())
    spoil(again)
    before = Start(again.hooks.backbone).values
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.start.values.keys() == before.keys()
    assert all(torch.equal(again.start.values[name], value) for name, value in before.items())
    now = Start(again.hooks.backbone).values
    assert (
        now["layers.0.self_attn.q_proj.lora_B.default.weight"]
        - before["layers.0.self_attn.q_proj.lora_B.default.weight"]
    ).abs().max() > 1e-3
