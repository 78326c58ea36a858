"""The trainer on tiny models: what moves, what is logged, accumulation, checkpointing, 4-bit, bad settings."""

import pytest
import torch
from conftest import TINY
from datasets import Dataset
from peft import LoraConfig
from tiny_base import rows, save_tiny_base, tiny_tokenizer, two_steps
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ssft.errors import ConfigError
from ssft.streams.modules import CONTAINER
from ssft.training import trainer as trainer_module
from ssft.training.config import StreamSFTConfig
from ssft.training.loss import ngram_loss
from ssft.training.trainer import StreamSFTTrainer

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def make_trainer(tmp_path, model=None, architecture="llama", evaluate=False, **settings):
    """A trainer over a tiny model: γ = 3, N_s = 2, two steps of two rows unless told otherwise."""
    if model is None:
        model = TINY[architecture](vocab_size=len(tiny_tokenizer()))
    own = {"num_streams": 3, "num_msa_layers": 2, "stream_loss_weight": 0.5}
    own |= {"activation_checkpointing": False, **settings}
    return StreamSFTTrainer(
        model,
        StreamSFTConfig(**two_steps(tmp_path) | own),
        train_dataset=Dataset.from_list(rows(8)),
        eval_dataset=Dataset.from_list(rows(4, start=100)) if evaluate else None,
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )


def parameters_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_lora_and_streams_move_and_nothing_else(tmp_path, architecture):
    trainer = make_trainer(tmp_path, architecture=architecture, projection_rank=2)
    before = parameters_of(trainer)
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    expected = {name for name in before if "lora_" in name or CONTAINER in name}
    assert moved == expected
    assert any("stream_embeddings" in name for name in moved)


def test_logs_every_stream_and_acceptance(tmp_path):
    trainer = make_trainer(tmp_path, evaluate=True, eval_strategy="steps", eval_steps=1)
    trainer.train()
    train = next(e for e in trainer.state.log_history if "loss_main" in e)
    assert {"loss_stream_1", "loss_stream_2", "loss_stream_3", "grad_norm"} <= set(train)
    evaluation = next(e for e in trainer.state.log_history if "eval_loss_main" in e)
    assert {"eval_acceptance_1", "eval_acceptance_3", "eval_chain_tokens_per_call"} <= set(evaluation)
    assert 1 <= evaluation["eval_chain_tokens_per_call"] <= 4


def test_loss_falls_for_main_and_streams(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=25)
    trainer.train()
    history = [e for e in trainer.state.log_history if "loss_main" in e]
    for name in ("loss_main", "loss_stream_1", "loss_stream_3"):
        assert history[-1][name] < 0.8 * history[0][name]


def test_first_loss_is_the_weighted_sum_of_its_parts(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, main_loss_weight=2.0)
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss_main" in e)
    batch = next(iter(trainer.get_train_dataloader()))
    tokens = (batch["labels"] != -100).sum(dim=1)
    # Of n completion tokens stream j has n - j targets; all sums are divided by the number of completion tokens.
    share = [sum(max(int(n) - j, 0) for n in tokens) / int(tokens.sum()) for j in range(4)]
    expected = 2.0 * entry["loss_main"] + 0.5 * sum(entry[f"loss_stream_{j}"] * share[j] for j in (1, 2, 3))
    assert entry["loss"] == pytest.approx(expected, rel=1e-4)


def test_streams_learn_from_the_main_stream_when_told(tmp_path, monkeypatch):
    asked = []

    def spy(*arguments):
        asked.append(arguments[5])
        return ngram_loss(*arguments)

    monkeypatch.setattr(trainer_module, "ngram_loss", spy)
    reference = make_trainer(tmp_path)
    batch = next(iter(reference.get_train_dataloader()))
    torch.manual_seed(1)
    plain = gradients(reference, [batch])
    for supervision in ("main", "acceptance", "accepted_length"):
        reference.args.stream_supervision = supervision
        distilled = gradients(reference, [batch])
        assert any(not torch.allclose(plain[name], distilled[name]) for name in plain if CONTAINER in name)
    assert asked == ["reference", "main", "acceptance", "accepted_length"]


def test_far_streams_weigh_less_where_told(tmp_path, monkeypatch):
    told = []

    def spy(*arguments):
        told.append(arguments[4].tolist())
        return ngram_loss(*arguments)

    monkeypatch.setattr(trainer_module, "ngram_loss", spy)
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch)
    trainer.args.stream_loss_decay = 0.5
    trainer.compute_loss(trainer.model, batch)
    assert told == [[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.25, 0.125]]


def test_streams_learn_over_the_draft_vocabulary_and_the_tokens_of_the_batch(tmp_path, monkeypatch):
    given = []

    def spy(*arguments):
        given.append((arguments, ngram_loss(*arguments)))
        return given[-1][1]

    monkeypatch.setattr(trainer_module, "ngram_loss", spy)
    trainer = make_trainer(tmp_path, draft_vocabulary=20)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, batch)
    (main, streams, targets, logits, *rest, candidates), found = given[0]
    assert len(trainer.vocabulary) == 20
    own = set(batch["input_ids"].flatten().tolist())
    assert own - set(trainer.vocabulary.tolist()), "the batch has no token of its own, so the test shows nothing"
    assert candidates.ids.tolist() == sorted(own | set(trainer.vocabulary.tolist()))
    assert len(candidates.ids) < trainer.model.config.vocab_size
    torch.testing.assert_close(candidates.logits(streams), logits(streams)[..., candidates.ids])
    assert found.streams < ngram_loss(main, streams, targets, logits, *rest).streams, "fewer tokens share the rest"


def gradients(trainer, batches):
    """Gradients of the loss over `batches`, divided by the tokens of all of them as the trainer does."""
    trainer.model.train()
    items = sum((b["labels"][:, 1:] != -100).sum() for b in batches)
    trainer.model.zero_grad()
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).backward()
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def assert_same(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    assert max(g.abs().max() for g in left.values()) > 1e-4
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=tolerance)


def test_accumulated_micro_batches_equal_one_batch(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=4)
    batch = next(iter(trainer.get_train_dataloader()))
    parts = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)]
    assert_same(gradients(trainer, [batch]), gradients(trainer, parts))


def test_gradient_checkpointing_gives_the_same_gradients(tmp_path, architecture):
    plain = make_trainer(tmp_path, architecture=architecture)
    batch = next(iter(plain.get_train_dataloader()))
    reference = gradients(plain, [batch])
    checkpointed = make_trainer(tmp_path, architecture=architecture, activation_checkpointing=True)
    checkpointed.model.load_state_dict(plain.model.state_dict())
    checkpointed.model.base_model.activation_checkpointing_enable()
    assert_same(reference, gradients(checkpointed, [batch]))


def test_padding_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    wider = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=3),
        "labels": torch.nn.functional.pad(batch["labels"], (0, 5), value=-100),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    assert_same(gradients(trainer, [batch]), gradients(trainer, [wider]))


def test_bfloat16_autocast_trains(tmp_path):
    trainer = make_trainer(tmp_path, bf16=True, max_steps=3)
    trainer.train()
    assert all(p.dtype == torch.float32 for p in trainer.streams.parameters())
    assert all(e["grad_norm"] > 0 for e in trainer.state.log_history if "grad_norm" in e)


def four_bit(tmp_path):
    folder = save_tiny_base(tmp_path / "base")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)


def test_four_bit_base_keeps_its_gradients_after_an_evaluation(tmp_path):
    model = four_bit(tmp_path)
    quantised = [m for m in model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert quantised
    for module in quantised:
        module.support_avx512bf16_for_cpu = True  # as bitsandbytes sets it on such a CPU
    trainer = make_trainer(
        tmp_path / "run", model=model, evaluate=True, eval_strategy="steps", eval_steps=1, max_steps=3
    )
    assert not any(module.support_avx512bf16_for_cpu for module in quantised)
    before = parameters_of(trainer)
    trainer.train()
    norms = [e["grad_norm"] for e in trainer.state.log_history if "grad_norm" in e]
    assert len(norms) == 3
    assert min(norms) > 0
    assert all(p.dtype == torch.float32 for p in trainer.streams.parameters())
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(after[n], before[n]) for n in before if CONTAINER in n)


def test_stream_parameters_have_their_own_rate(tmp_path):
    trainer = make_trainer(tmp_path, stream_learning_rate=0.5, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    own = [g for g in groups if g["lr"] == 0.5]
    assert [p.shape for p in own[0]["params"]] == [trainer.streams.stream_embeddings.shape]
    everything = [id(p) for g in groups for p in g["params"]]
    assert len(everything) == len(set(everything))
    assert len(everything) == sum(p.requires_grad for p in trainer.model.parameters())


def test_stream_weight_warms_up(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=10, stream_loss_warmup_ratio=0.5)
    trainer.model.train()
    trainer.state.max_steps = 10
    weights = []
    for step in (0, 2, 4, 9):
        trainer.state.global_step = step
        weights.append(trainer.stream_weight)
    assert weights == pytest.approx([0.1, 0.3, 0.5, 0.5])


@pytest.mark.parametrize(
    ("warmup", "weights"),
    [(0.0, [0.46, 0.38, 0.30, 0.10]), (0.5, [0.10, 0.30, 0.50, 0.10])],
    ids=["from_the_start", "after_a_warm_up"],
)
def test_stream_weight_falls_to_its_end(tmp_path, warmup, weights):
    trainer = make_trainer(tmp_path, stream_loss_warmup_ratio=warmup, stream_loss_weight_end=0.1)
    trainer.state.max_steps = 10
    found = []
    for trainer.state.global_step in (0, 2, 4, 9):
        trainer.model.train()
        found.append(trainer.stream_weight)
        trainer.model.eval()
        assert trainer.stream_weight == 0.5
    assert found == pytest.approx(weights)


def test_needs_an_adapter(tmp_path):
    with pytest.raises(ConfigError, match=r"without an adapter.*peft_config"):
        StreamSFTTrainer(
            TINY["llama"](vocab_size=len(tiny_tokenizer())),
            StreamSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
            train_dataset=Dataset.from_list(rows(2)),
            processing_class=tiny_tokenizer(),
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_streams": 0}, "num_streams=0: γ must lie between 1 and 16"),
        ({"num_msa_layers": 0}, "num_msa_layers=0: streams need at least one layer"),
        ({"stream_loss_weight": -1.0}, "stream_loss_weight=-1.0, expected a number from 0"),
        ({"stream_loss_warmup_ratio": 2.0}, "stream_loss_warmup_ratio=2.0, expected a number from 0 to 1"),
        ({"stream_gradient": "halved"}, "stream_gradient='halved', expected 'summed'"),
        ({"main_supervision": "main"}, "main_supervision='main', expected 'reference'"),
        ({"stream_loss_weight_end": -1.0}, "stream_loss_weight_end=-1.0, expected a number from 0"),
        (
            {"stream_loss_weight_end": 0.0, "stream_loss_warmup_ratio": 1.0},
            "the weight grows until the last step and has none left to fall in; set a smaller stream_loss_warmup_ratio",
        ),
        (
            {"main_supervision": "start", "mode": "lossless"},
            "main_supervision=start: .*with mode=lossless the text learns nothing; leave main_supervision out",
        ),
        (
            {"stream_gradient": "scaled", "mode": "lossless"},
            "stream_gradient=scaled: .*with mode=lossless the text learns nothing; leave stream_gradient out",
        ),
        (
            {"main_supervision": "start", "stream_gradient": "scaled"},
            "streams would never move the LoRA; set main_supervision=both, or stream_gradient=projected",
        ),
        ({"packing": True}, "several documents into one row"),
        ({"identifier": "colour"}, "identifier='colour': expected one of embedding, rotation"),
        ({"projection_rank": -1}, "projection_rank=-1"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        StreamSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


def test_more_msa_layers_than_the_base_has(tmp_path):
    with pytest.raises(ConfigError, match=r"the base has 4 layers.*choose a value from 1 to 3"):
        make_trainer(tmp_path, num_msa_layers=4)


def test_a_share_of_layers_is_settled_by_the_base(tmp_path):
    trainer = make_trainer(tmp_path, num_msa_layers=0.75)
    assert (trainer.args.num_msa_layers, trainer.streams.config.num_msa_layers) == (3, 3)
