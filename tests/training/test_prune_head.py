"""The prune head learns the next token at the insertion layer, and pulls at nothing else."""

import pytest
import torch
from conftest import TINY
from datasets import Dataset
from peft import LoraConfig
from tiny_base import rows, tiny_tokenizer, two_steps

from ssft.errors import ConfigError
from ssft.streams.config import StreamConfig
from ssft.streams.modules import CONTAINER, StreamModules
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training.config import StreamSFTConfig
from ssft.training.loss import stream_targets
from ssft.training.trainer import StreamSFTTrainer

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
HEAD = ("prune_down", "prune_up")


def make_trainer(tmp_path, architecture="llama", **settings):
    own = {"num_streams": 3, "num_msa_layers": 2, "stream_loss_weight": 0.5, "activation_checkpointing": False}
    torch.manual_seed(0)
    return StreamSFTTrainer(
        TINY[architecture](vocab_size=len(tiny_tokenizer())),
        StreamSFTConfig(**two_steps(tmp_path) | own | settings),
        train_dataset=Dataset.from_list(rows(8)),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )


def gradients(trainer, batch):
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def is_head(name):
    return name.endswith(HEAD)


# --- the map ---


def test_it_has_two_theta_h_parameters_and_starts_as_the_identity():
    modules = StreamModules(StreamConfig(4, 2, "rotation", prune_head_rank=8), 576)
    assert modules.count() == 2 * 8 * 576
    state = torch.randn(2, 5, 576)
    assert torch.equal(modules.early_exit(state), state)
    assert modules.prune_down.abs().min() > 0  # not a dead start


def test_it_is_residual_and_low_rank():
    modules = StreamModules(StreamConfig(4, 2, prune_head_rank=2), 16)
    torch.nn.init.normal_(modules.prune_up)
    state = torch.randn(40, 16)
    change = modules.early_exit(state) - state
    torch.testing.assert_close(change, state @ (modules.prune_up @ modules.prune_down).T)
    assert torch.linalg.matrix_rank(change, atol=1e-3) == 2


def test_a_rank_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"prune_head_rank=-1: θ is 0 .no prune head. or a positive rank, such as 8"):
        StreamConfig(prune_head_rank=-1)


# --- with the streams ---


def test_it_moves_and_is_logged(tmp_path, architecture):
    trainer = make_trainer(tmp_path, architecture, prune_head_rank=4, max_steps=25)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name or CONTAINER in name}
    assert sum(map(is_head, moved)) == 2
    losses = [entry["loss_prune"] for entry in trainer.state.log_history if "loss_prune" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_without_a_rank_nothing_is_logged(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    assert not any("loss_prune" in entry for entry in trainer.state.log_history)


def test_the_loss_is_the_next_tokens_at_the_insertion_layer(tmp_path, architecture):
    """Against the model's own hidden states, by hand."""
    trainer = make_trainer(tmp_path, architecture, prune_head_rank=4)
    torch.nn.init.normal_(trainer.streams.prune_up, std=0.3)
    batch = next(iter(trainer.get_train_dataloader()))
    sources, targets = stream_targets(batch["labels"], 3)
    real = (targets[..., 0] != -100).nonzero(as_tuple=True)
    trainer.model.eval()
    backbone = trainer.hooks.backbone
    seen = []
    layer = backbone.layers[len(backbone.layers) - 2]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]), prepend=True)
    with torch.no_grad():
        trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        handle.remove()
        state = trainer.streams.early_exit(seen[0][real[0], sources[real]])
        expected = torch.nn.functional.cross_entropy(backbone.logits(backbone.finish(state)), targets[real][:, 0])
        loss = trainer.score(trainer.model, batch, sources, real, targets[real])
    assert float(loss.sums[-1] / loss.counts[-1]) == pytest.approx(float(expected), rel=1e-4)
    assert len(loss.sums) == len(loss.counts) == len(trainer.loss_names) == 5


@pytest.mark.parametrize("mode", ["shared", "lossless"])
def test_no_gradient_reaches_anything_else(tmp_path, mode):
    settings = {"prune_head_rank": 4}
    if mode == "lossless":
        settings["mode"] = "lossless"
        lora = LORA | {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [2, 3]}
    else:
        lora = LORA
    own = {"num_streams": 3, "num_msa_layers": 2, "activation_checkpointing": False}

    def trainer_with(weight):
        torch.manual_seed(0)
        return StreamSFTTrainer(
            TINY["llama"](vocab_size=len(tiny_tokenizer())),
            StreamSFTConfig(**two_steps(tmp_path) | own | settings | {"prune_loss_weight": weight}),
            train_dataset=Dataset.from_list(rows(8)),
            processing_class=tiny_tokenizer(),
            peft_config=LoraConfig(**lora),
        )

    trainers = [trainer_with(weight) for weight in (0.0, 3.0)]
    batch = next(iter(trainers[0].get_train_dataloader()))
    without, with_it = (gradients(trainer, batch) for trainer in trainers)
    assert without.keys() == with_it.keys()
    for name, gradient in with_it.items():
        if is_head(name):
            assert not without[name].any()
        else:
            assert torch.equal(gradient, without[name])
    assert any(is_head(name) and gradient.abs().max() > 1e-4 for name, gradient in with_it.items())


def test_what_streams_were_made_of_is_noted(tmp_path):
    trainer = make_trainer(tmp_path)
    plan = StreamPlan(trainer.streams, torch.tensor([[1, 3]]), 3)
    with torch.no_grad(), announced(Pass(plan)):
        trainer.model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False)
    assert plan.entered.shape == (1, 2, 64)
