"""Every tested architecture: streams are what its own rows would be in their places, and training learns from that.

The reference has no hook of ours: rows of made-up tokens behind the prefix, whose states are replaced at the insertion
layer, so that the model's own attention, positions and head compute the streams. Windows are wide here, since such rows
see less of the past than streams, which see what their source sees.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import LAYERS, with_adapter
from datasets import Dataset
from peft import LoraConfig
from tiny_architectures import ARCHITECTURES, targets_of, tiny
from tiny_base import rows, tiny_tokenizer, two_steps

from ssft.base.backbone import Backbone
from ssft.errors import ConfigError
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import CONTAINER, streams_of
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training.config import StreamSFTConfig
from ssft.training.loss import IGNORE, stream_targets
from ssft.training.lossless import restrict_to_stream_layers
from ssft.training.trainer import StreamSFTTrainer

NAMES = sorted(ARCHITECTURES)
GAMMA, N_S = 3, 2


def wide(name, **changes):
    """The tiny model, its windows wider than any sequence here."""
    windowed = "sliding_window" in ARCHITECTURES[name][1] and name != "mixtral"
    return tiny(name, **({"sliding_window": 64} if windowed else {}), **changes)


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


def make_trainer(tmp_path, name, **settings):
    tokenizer = tiny_tokenizer()
    own = {"num_streams": GAMMA, "num_msa_layers": N_S, "stream_loss_weight": 0.5, **settings}
    model = wide(name, vocab_size=len(tokenizer))
    lora = LoraConfig(r=4, target_modules=targets_of(name), task_type="CAUSAL_LM")
    if settings.get("mode") == "lossless":
        lora = restrict_to_stream_layers(lora, model, N_S)
    return StreamSFTTrainer(
        model,
        StreamSFTConfig(**two_steps(tmp_path) | own),
        train_dataset=Dataset.from_list(rows(8)),
        processing_class=tokenizer,
        peft_config=lora,
    )


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


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "shared") for name in NAMES if "-" not in name]
    + [(name, "lossless") for name in ("gemma3_text", "gpt2", "phi", "falcon", "qwen3_moe")],
)
def test_training_moves_the_lora_and_the_streams(tmp_path, name, mode):
    trainer = make_trainer(tmp_path, name, mode=mode, activation_checkpointing=mode == "shared")
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert any(CONTAINER in n for n in moved)
    assert any("lora_B" in n for n in moved)
    assert all("lora_" in n or CONTAINER in n for n in moved)


def test_a_lora_of_experts_is_refused_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(make_trainer.__globals__, "targets_of", lambda _name: "all-linear")
    with pytest.raises(ConfigError, match=r"'gate_up_proj'.*in no linear layer.*set target_modules"):
        make_trainer(tmp_path, "mixtral")
