"""Every tested architecture: streams are what its own rows would be in their places, and training learns from that.

The reference has no hook of ours: rows of made-up tokens behind the prefix, whose states are replaced at the insertion
layer, so that the model's own attention, positions and head compute the streams. Windows are wide here, since such rows
see less of the past than streams, which see what their source sees.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYERS, with_adapter
from tiny_architectures import ARCHITECTURES, targets_of
from tiny_trainer import GAMMA, N_S, make_trainer, wide

from ssft.base.backbone import Backbone
from ssft.errors import ConfigError
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import CONTAINER, streams_of
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training.loss import IGNORE, stream_targets

NAMES = sorted(ARCHITECTURES)


def logits_by_hand(model, streams, prefix):
    """Logits [γ + 1, V] of the last main row of `prefix` and of its streams, by the model's own forward."""
    layers = Backbone(model).layers
    length = len(prefix)

    def insert(_layer, args):
        return (torch.cat((args[0][:, :length], streams.insert(args[0][:, length - 1 : length], GAMMA)), 1), *args[1:])

    handle = layers[LAYERS - N_S].register_forward_pre_hook(insert)
    ids = torch.tensor([prefix + [5] * GAMMA])
    logits = model(input_ids=ids, use_cache=False).logits[0, length - 1 :]
    handle.remove()
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_streams_are_the_models_own_rows_and_the_main_stream_is_untouched(name):
    model = with_adapter(wide(name), StreamConfig(GAMMA, N_S), targets=targets_of(name))
    streams, ids = streams_of(model), torch.randint(4, 60, (1, 9), generator=torch.Generator().manual_seed(3))
    sources = [2, 5, 8]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        expected = [logits_by_hand(model, streams, ids[0, : t + 1].tolist())[1:] for t in sources]
        hooks = StreamHooks(model)
        plan = StreamPlan(streams, torch.tensor([sources]), GAMMA)
        with announced(Pass(plan)):
            streamed = model(input_ids=ids).logits
        found = hooks.backbone.logits(hooks.backbone.finish(plan.streams.unflatten(1, (-1, GAMMA))))[0]
    torch.testing.assert_close(streamed, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-3, rtol=1e-3)
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.05


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "granite", "cohere2", "gpt2", "phi", "stablelm", "falcon"])
def test_the_loss_is_a_naive_sum_over_the_models_own_logits(tmp_path, name):
    trainer = make_trainer(tmp_path, name, activation_checkpointing=False)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    sources, targets = stream_targets(batch["labels"], GAMMA)
    real = (targets[..., 0] != IGNORE).nonzero(as_tuple=True)
    with torch.no_grad():
        loss = trainer.score(trainer.model, batch, sources, real, targets[real])
    sums = torch.zeros(GAMMA + 1)
    trainer.hooks.remove()
    for row, place in zip(*real, strict=True):
        prefix = batch["input_ids"][row, : sources[row, place] + 1].tolist()
        with torch.no_grad():
            logits = logits_by_hand(trainer.model, trainer.streams, prefix)
        for j, target in enumerate(targets[row, place]):
            if target != IGNORE:
                sums[j] += F.cross_entropy(logits[j], target)
    torch.testing.assert_close(loss.sums, sums, atol=1e-2, rtol=1e-4)


def loss_of(trainer, batch):
    """Weighted sum of the losses of a batch, in evaluation."""
    trainer.model.eval()
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, dict(batch)).item()


@pytest.mark.parametrize("name", [name for name in NAMES if "-" not in name])
def test_training_moves_the_lora_and_the_streams_and_the_loss_falls(tmp_path, name):
    trainer = make_trainer(tmp_path, name, activation_checkpointing=True)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    batch = next(iter(trainer.get_train_dataloader()))
    first = loss_of(trainer, batch)
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert any(CONTAINER in n for n in moved)
    assert any("lora_B" in n for n in moved)
    assert all("lora_" in n or CONTAINER in n for n in moved)
    assert loss_of(trainer, batch) < first


def test_a_lora_of_experts_is_refused_before_it_trains(tmp_path):
    with pytest.raises(ConfigError, match=r"'gate_up_proj'.*in no linear layer.*set target_modules"):
        make_trainer(tmp_path, "mixtral", targets="all-linear")
