"""Lossless mode: the LoRA sees stream rows only, so the main stream is the base's, and what trains still learns."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_base import rows, save_tiny_base, tiny_tokenizer, two_steps

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.write import write_bundle
from ssft.card.write import card_text
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.passes import Pass, announced
from ssft.streams.plan import StreamPlan
from ssft.training.config import StreamSFTConfig
from ssft.training.loss import stream_targets
from ssft.training.lossless import restrict_to_stream_layers
from ssft.training.trainer import StreamSFTTrainer

N_S = 2


def make_trainer(tmp_path, architecture="llama", lora=None, **settings):
    base = save_tiny_base(tmp_path / "base", architecture)
    model, _ = load_base(base, dtype="float32")
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **(lora or {})})
    if lora is None:
        config = restrict_to_stream_layers(config, model, N_S)
    own = {"num_streams": 3, "num_msa_layers": N_S, "mode": "lossless", "stream_loss_weight": 1.0}
    own |= {"activation_checkpointing": False, **settings}
    return StreamSFTTrainer(
        model,
        StreamSFTConfig(**two_steps(tmp_path / "out") | own),
        train_dataset=Dataset.from_list(rows(8)),
        processing_class=tiny_tokenizer(),
        peft_config=config,
    )


def states(trainer, batch):
    """Main and stream states of one forward."""
    sources, _ = stream_targets(batch["labels"], 3)
    plan = StreamPlan(trainer.streams, sources, 3)
    trainer.gate.plan = plan
    with torch.no_grad(), announced(Pass(plan)):
        trainer.model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=1)
    return plan.main, plan.streams


def test_main_rows_are_the_bases_whatever_the_lora(tmp_path, architecture):
    trainer = make_trainer(tmp_path, architecture)
    batch = next(iter(trainer.get_train_dataloader()))
    main, streams = states(trainer, batch)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    other_main, other_streams = states(trainer, batch)
    assert torch.equal(main, other_main)
    assert (streams - other_streams).abs().max() > 0.1


def test_without_streams_the_model_is_the_base(tmp_path):
    trainer = make_trainer(tmp_path)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    ids = torch.tensor([[5, 6, 7, 8]])
    base, _ = load_base(tmp_path / "base", dtype="float32")
    with torch.no_grad():
        assert torch.equal(trainer.model(input_ids=ids).logits, base(input_ids=ids).logits)


def test_everything_that_trains_moves_and_lies_in_the_top_layers(tmp_path, architecture):
    trainer = make_trainer(tmp_path, architecture)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name or "ssft_streams" in name}
    assert all(".layers.2." in name or ".layers.3." in name for name in moved if "lora_" in name)


def test_checkpointing_gives_the_same_gradients(tmp_path, architecture):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        folder = tmp_path / str(checkpointing)
        trainer = make_trainer(folder, architecture, activation_checkpointing=checkpointing)
        batch = next(iter(trainer.get_train_dataloader()))
        torch.manual_seed(1)
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1 if "lora" in name else 0.3)
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch).backward()
        found.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys()
    assert max(g.abs().max() for g in plain.values()) > 1e-4
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], rtol=1e-3, atol=1e-6)


def test_streams_learn_and_the_decoded_text_stays_the_bases(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=30)
    trainer.train()
    history = [e for e in trainer.state.log_history if "loss_stream_1" in e]
    assert history[-1]["loss_stream_1"] < 0.8 * history[0]["loss_stream_1"]
    base, tokenizer = load_base(tmp_path / "base", dtype="float32")
    fingerprint = base_fingerprint(base, tokenizer, tmp_path / "base")
    bundle = write_bundle(
        tmp_path / "adapter", trainer.model, tree=TreeConfig(max_nodes=40, top_k=12), base=fingerprint
    )
    assert bundle.stream_config.mode == "lossless"
    model = MultiAdapterModel(base, tokenizer, str(tmp_path / "base"))
    model.load_adapter(bundle.path)
    settings = {"max_new_tokens": 20, "ignore_eos": True, "return_dict": True}
    for prompt in ("say 3:", "say 40:"):
        bare, drafted = (model.generate(prompt, name, **settings) for name in (None, "adapter"))
        assert bare["token_ids"] == drafted["token_ids"]


def test_a_lora_where_no_stream_is_gets_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"would never be used.*set layers_to_transform to \[2, 3\]"):
        make_trainer(tmp_path, lora={"target_modules": ["q_proj"]})
    trainer = make_trainer(tmp_path, lora={"target_modules": ["q_proj"], "layers_to_transform": [2, 3]})
    assert sum("lora_A" in name for name, _ in trainer.model.named_parameters()) == 2


def test_the_card_does_not_send_a_lossless_adapter_to_peft(tmp_path):
    trainer = make_trainer(tmp_path)
    base, tokenizer = load_base(tmp_path / "base", dtype="float32")
    fingerprint = base_fingerprint(base, tokenizer, tmp_path / "base")
    bundle = write_bundle(tmp_path / "adapter", trainer.model, tree=TreeConfig(), base=fingerprint)
    assert "plain peft would apply the LoRA to the text too" in card_text(bundle)
    assert "decodes the same greedy text" not in card_text(bundle)


def test_merging_a_lossless_adapter_is_refused_before_its_base_is_loaded(tmp_path):
    trainer = make_trainer(tmp_path)
    base, tokenizer = load_base(tmp_path / "base", dtype="float32")
    fingerprint = base_fingerprint(base, tokenizer, tmp_path / "base")
    write_bundle(tmp_path / "adapter", trainer.model, tree=TreeConfig(), base=fingerprint)
    with pytest.raises(ConfigError, match=r"the adapter is lossless.*Leave out --merge"):
        load_adapted(tmp_path / "adapter", "no/such-base", merge=True)
    adapted = load_adapted(tmp_path / "adapter", str(tmp_path / "base"), dtype="float32")
    prompt = [adapted.encode({"prompt": "say 7:"})]
    bare = load_adapted(None, str(tmp_path / "base"), dtype="float32")
    said, base = (model.complete(prompt, max_new_tokens=12, ignore_eos=True)[0] for model in (adapted, bare))
    assert said.token_ids == base.token_ids


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_gradient_is_taken_below_the_insertion_layer_and_none_is_lost_above(tmp_path, checkpointing):
    trainer = make_trainer(tmp_path, activation_checkpointing=checkpointing)
    layers, batch = trainer.hooks.backbone.layers, next(iter(trainer.get_train_dataloader()))
    went_back = set()
    if checkpointing:
        trainer.model.activation_checkpointing_enable()
    for index, layer in enumerate(layers):
        layer.mlp.register_full_backward_hook(lambda *_, index=index: went_back.add(index))
    trainer.model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_(True))
    trainer.model.train()

    def gradients(cut):
        trainer.cut = cut
        went_back.clear()
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, batch).backward()
        return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}, {
            *went_back
        }

    (whole, all_layers), (cut, top) = gradients(False), gradients(True)
    assert all_layers == set(range(len(layers)))
    assert top == {len(layers) - 2, len(layers) - 1}
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient)
