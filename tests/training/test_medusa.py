"""The trainer of Medusa heads on tiny models: what moves, what is logged, targets, accumulation, resume, 4-bit."""

import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from fake_adapted import save_bundle
from safetensors.torch import load_file
from tiny_base import rows, save_tiny_base, two_steps
from trl import SFTConfig

from ssft.decoding.draft.medusa_heads import MedusaConfig
from ssft.errors import ConfigError
from ssft.runs.medusa_folder import load_medusa, lora_sha256, write_heads
from ssft.runtime.loader import load_adapted
from ssft.training.callbacks import MarkComplete, last_complete_checkpoint
from ssft.training.medusa import MedusaTrainer

HEADS = 3


def load(tmp_path, architecture="llama", **options):
    base, folder = tmp_path / f"base_{architecture}", tmp_path / f"adapter_{architecture}"
    if not base.exists():
        save_bundle(folder, save_tiny_base(base, architecture))
    return load_adapted(folder, str(base), **{"dtype": "float32", "device": "cpu", "fast": False, **options})


def make_trainer(tmp_path, adapted=None, config=None, evaluate=False, **settings):
    """Two steps of two rows unless told otherwise."""
    adapted = adapted or load(tmp_path)
    validation = Dataset.from_list(rows(4, start=100)) if evaluate else None
    return MedusaTrainer(
        adapted,
        config or MedusaConfig(num_heads=HEADS),
        SFTConfig(**two_steps(tmp_path / "run") | settings),
        train_dataset=Dataset.from_list(rows(8)),
        eval_dataset=validation,
        processing_class=adapted.tokenizer,
    )


def entries(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def main_states(adapted, batch):
    """What the base's head reads with the LoRA in force, by the model's own forward."""
    seen = []
    handle = adapted.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad(), adapted.applied(len(batch["input_ids"])):
        adapted.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    handle.remove()
    return seen[0]


def losses_by_hand(trainer, batch):
    """[num_heads] sums of cross-entropies and [num_heads] counts, token by token."""
    states, labels = main_states(trainer.adapted, batch), batch["labels"]
    sums, counts = torch.zeros(HEADS), torch.zeros(HEADS)
    for b, sequence in enumerate(labels.tolist()):
        for t in range(len(sequence) - 1):
            for j in range(1, HEADS + 1):
                # All of y_t .. y_{t+j} belong to the completion.
                if t + 1 + j < len(sequence) and -100 not in sequence[t + 1 : t + 2 + j]:
                    logits = trainer.heads.heads[j - 1](states[b, t])
                    sums[j - 1] += F.cross_entropy(logits, labels[b, t + 1 + j]).detach()
                    counts[j - 1] += 1
    return sums, counts


def disturb(trainer):
    torch.manual_seed(3)
    for parameter in trainer.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


# --- what is computed ---


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_loss_is_the_weighted_sum_over_heads_per_completion_token(tmp_path, architecture):
    config = MedusaConfig(num_heads=HEADS, loss_decay=0.5)
    trainer = make_trainer(tmp_path, load(tmp_path, architecture), config)
    disturb(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    sums, counts = losses_by_hand(trainer, batch)
    items = (batch["labels"][:, 1:] != -100).sum()
    assert counts.tolist() == [int(items) - 2 * j for j in (1, 2, 3)]
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
    expected = (0.5 * sums[0] + 0.25 * sums[1] + 0.125 * sums[2]) / items
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    logged = [trainer._metrics["train"][f"loss_head_{j}"][-1] for j in (1, 2, 3)]
    assert logged == pytest.approx((sums / counts).tolist(), rel=1e-4)


def test_states_are_those_with_the_lora(tmp_path):
    """Else the test above would hold for a base that lost its LoRA on both sides."""
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    with_lora = trainer._main_states(batch)
    with torch.no_grad():
        bare = trainer.backbone.decoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
    assert (with_lora - bare).abs().max() > 0.05


def gradients(trainer, batches):
    trainer.model.train()
    trainer.model.zero_grad()
    items = sum((b["labels"][:, 1:] != -100).sum() for b in batches)
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).backward()
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert max(g.abs().max() for g in left.values()) > 1e-4
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-5)


def test_accumulated_micro_batches_equal_one_batch(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4)
    disturb(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    parts = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)]
    assert_same(gradients(trainer, [batch]), gradients(trainer, parts))


def test_chunks_of_the_head_change_nothing(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    disturb(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    whole = gradients(trainer, [batch])
    sizes = []
    for head in trainer.heads.heads:
        head.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr("ssft.training.medusa.HEAD_ROWS", 5 * HEADS + 1)
    assert_same(whole, gradients(trainer, [batch]))
    assert max(sizes) == 5
    assert len(sizes) > 2 * HEADS


def test_padding_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    disturb(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    wider = {
        "input_ids": F.pad(batch["input_ids"], (0, 5), value=3),
        "labels": F.pad(batch["labels"], (0, 5), value=-100),
        "attention_mask": F.pad(batch["attention_mask"], (0, 5)),
    }
    assert_same(gradients(trainer, [batch]), gradients(trainer, [wider]))


def test_a_batch_without_completion_tokens_is_a_loss_of_zero(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    batch["labels"] = torch.full_like(batch["labels"], -100)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(0))
    loss.backward()
    assert loss.item() == 0


# --- what moves, and what is logged ---


def test_heads_move_and_nothing_else(tmp_path, architecture):
    adapted = load(tmp_path, architecture)
    trainer = make_trainer(tmp_path, adapted, evaluate=True, eval_strategy="steps", eval_steps=1)
    base = {n: p.clone() for n, p in adapted.model.named_parameters()}
    lora = [buffer.clone() for buffer in adapted.active.lora.buffers]
    heads = {n: p.detach().clone() for n, p in trainer.heads.named_parameters()}
    trainer.train()
    assert all(torch.equal(p, base[n]) for n, p in adapted.model.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(adapted.active.lora.buffers, lora, strict=True))
    assert not any(torch.equal(p, heads[n]) for n, p in trainer.heads.named_parameters())
    assert not adapted.model.training
    assert all(p.grad is None for p in adapted.model.parameters())


def test_losses_fall_and_the_heads_learn_to_be_accepted(tmp_path):
    trainer = make_trainer(tmp_path, evaluate=True, max_steps=40)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    for j in (1, 2, 3):
        history = entries(trainer, f"loss_head_{j}")
        assert history[-1] < 0.8 * history[0]
        assert 0 <= after[f"eval_acceptance_{j}"] <= 1
    assert after["eval_loss_head_1"] < before["eval_loss_head_1"]
    expected = 1 + sum(after[f"eval_acceptance_{j}"] for j in (1, 2, 3))
    assert after["eval_chain_tokens_per_call"] == pytest.approx(expected)


def test_acceptance_counts_what_the_model_itself_would_say(tmp_path, monkeypatch):
    """Heads planted to name, at t, the base's own choices at t+1, t+2, t+3: everything is accepted."""
    trainer = make_trainer(tmp_path, evaluate=True, per_device_eval_batch_size=2)

    def planted(states, targets):
        main = trainer.adapted.model.get_output_embeddings()(states).argmax(dim=-1)
        ahead = torch.stack([torch.roll(main, -j) for j in (1, 2, 3)], dim=1)
        return torch.zeros(targets.shape), ahead

    monkeypatch.setattr(trainer.model, "forward", planted)
    result = trainer.evaluate()
    assert [result[f"eval_acceptance_{j}"] for j in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert result["eval_chain_tokens_per_call"] == 4.0


def test_bfloat16_trains_in_float32_over_a_bfloat16_base(tmp_path):
    adapted = load(tmp_path, dtype="bfloat16")
    trainer = make_trainer(tmp_path, adapted, bf16=True, max_steps=3, evaluate=True)
    trainer.train()
    assert all(p.dtype == torch.float32 for p in trainer.heads.parameters())
    assert all(norm > 0 for norm in entries(trainer, "grad_norm"))
    assert 1 <= trainer.evaluate()["eval_chain_tokens_per_call"] <= 4
    (folder := tmp_path / "medusa").mkdir()
    write_heads(folder, trainer.heads, adapted, lora_sha256(adapted))
    assert load_medusa(folder, adapted).heads[0].output.weight.dtype == torch.bfloat16


def test_a_four_bit_base_trains_its_heads(tmp_path):
    # Where bitsandbytes packs 4-bit weights for the CPU's matrix unit, their width is a multiple of 64.
    save_bundle(tmp_path / "adapter_llama", save_tiny_base(tmp_path / "base_llama", intermediate_size=128))
    adapted = load(tmp_path, quantization="4bit")
    trainer = make_trainer(tmp_path, adapted, evaluate=True, eval_strategy="steps", eval_steps=1, max_steps=3)
    assert not getattr(adapted.model, "_hf_peft_config_loaded", False)
    before = {n: p.detach().clone() for n, p in trainer.heads.named_parameters()}
    trainer.train()
    assert all(p.dtype == torch.float32 for p in trainer.heads.parameters())
    assert not any(torch.equal(p, before[n]) for n, p in trainer.heads.named_parameters())


def test_a_merged_adapter_gives_the_same_losses(tmp_path):
    trainers = [make_trainer(tmp_path, load(tmp_path, merge=merge), max_steps=3) for merge in (False, True)]
    for trainer in trainers:
        trainer.train()
    first, second = (entries(trainer, "loss_head_1") for trainer in trainers)
    assert first == pytest.approx(second, rel=1e-3)


# --- checkpoints ---


def test_checkpoints_hold_the_heads_alone_and_a_killed_run_goes_on_as_if_nothing_happened(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = make_trainer(tmp_path, **settings)
    whole.add_callback(MarkComplete(time.monotonic()))
    whole.train()
    folder = tmp_path / "run"
    held = load_file(folder / "checkpoint-2" / "model.safetensors")
    assert {key.removeprefix("heads.") for key in held} == set(whole.heads.state_dict())
    shutil.rmtree(folder / "checkpoint-4")
    checkpoint = last_complete_checkpoint(folder)
    assert checkpoint == folder / "checkpoint-2"
    resumed = make_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 4
    assert entries(resumed, "loss") == pytest.approx(entries(whole, "loss"), rel=1e-5)
    for name, parameter in resumed.heads.named_parameters():
        torch.testing.assert_close(parameter, dict(whole.heads.named_parameters())[name])


def test_trained_heads_are_saved_and_loaded(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    (folder := tmp_path / "medusa").mkdir()
    write_heads(folder, trainer.heads, trainer.adapted, lora_sha256(trainer.adapted))
    states = torch.randn(3, 64)
    again = load(tmp_path)
    assert torch.equal(load_medusa(folder, again)(states), trainer.heads(states))


# --- bad settings ---


def test_packing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"packing/padding_free.*Set packing=False"):
        make_trainer(tmp_path, packing=True)


def test_shape_is_checked_first(tmp_path):
    with pytest.raises(ConfigError, match="num_heads=0"):
        make_trainer(tmp_path, config=MedusaConfig(num_heads=0))


def test_full_logits_are_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    with pytest.raises(ConfigError, match="need the full logits"):
        trainer.compute_loss(trainer.model, batch, return_outputs=True)


def test_the_caller_s_arguments_stay_as_they_were(tmp_path):
    adapted = load(tmp_path)
    args = SFTConfig(output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to="none")
    checkpointing = args.gradient_checkpointing, args.activation_checkpointing
    data = Dataset.from_list(rows(2))
    trainer = MedusaTrainer(adapted, MedusaConfig(), args, train_dataset=data, processing_class=adapted.tokenizer)
    assert len(trainer.train_dataset) == 2
    assert trainer.eval_dataset is None
    assert (args.gradient_checkpointing, args.activation_checkpointing) == checkpointing
    assert not trainer.args.gradient_checkpointing
