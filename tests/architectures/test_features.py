"""What else a run or a request may ask for: every feature meets every kind of architecture, all of which take turns."""

import pytest
import torch
from adapter_folders import peft_folder
from conftest import with_adapter
from oracle import PROMPTS, TOKENS, generate
from peft import PeftModel
from safetensors.torch import load_file
from tiny_architectures import ARCHITECTURES, KINDS, spread, targets_of, tiny
from tiny_base import tiny_tokenizer
from tiny_trainer import make_trainer, wide
from torch.testing import assert_close

from ssft.base.backbone import Backbone
from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_bundle
from ssft.decoding.budget import cost
from ssft.decoding.config import TreeConfig
from ssft.runs.start import hold, read_start
from ssft.runtime.generate import StreamGenerate
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig
from ssft.streams.modules import CONTAINER

SPREAD = spread(["lossless", "kept LoRA", "checkpointing", "four bits", "draft vocabulary", "budget"])
TREE = {"max_nodes": 24, "top_k": 12}
LORA = "adapter_model.safetensors"


def of(feature):
    return pytest.mark.parametrize("name", SPREAD[feature])


def fingerprint(model):
    return base_fingerprint(model, tiny_tokenizer(), "tiny")


def texts(model, prompts=PROMPTS):
    return [generate(model, prompt, TOKENS) for prompt in prompts]


def streamed(name, path, prompts=PROMPTS):
    """The texts of a bundle over the tiny model, as ssft decodes them, and passes per row."""
    model = MultiAdapterModel(wide(name, vocab_size=len(tiny_tokenizer())), tiny_tokenizer(), "tiny")
    model.load_adapter(path, "own")
    results = model.generate(prompts, adapter="own", max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
    return [result["token_ids"] for result in results], [result["calls"] for result in results]


def test_every_kind_of_architecture_is_one():
    """The kinds that a model shows by itself are those that the table names."""
    models = {name: tiny(name) for name in ARCHITECTURES if "-" not in name}
    parts = {name: Backbone(model) for name, model in models.items()}
    shown = {
        "windows": {name for name, part in parts.items() if any(part.windows)},
        "learned positions": {name for name, part in parts.items() if part.learned_positions},
        "keywords kept back": {name for name, part in parts.items() if not part.anatomy.interface},
        "tied head": {
            name
            for name, model in models.items()
            if model.get_output_embeddings().weight is model.get_input_embeddings().weight
        },
    }
    assert {kind: KINDS[kind] for kind in shown} == shown
    assert set().union(*KINDS.values()) == set(models) == set().union(*SPREAD.values())


# -- training ---------------------------------------------------------------------------------------------------


@of("lossless")
def test_lossless_training_leaves_the_text_of_the_base(tmp_path, name):
    trainer = make_trainer(tmp_path, name, mode="lossless", learning_rate=3e-3)
    ids = torch.tensor(PROMPTS[:1])
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model(input_ids=ids).logits
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, weights[n])}
    assert any(CONTAINER in n for n in moved)
    assert any("lora_B" in n for n in moved)
    trainer.gate.plan = None
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(trainer.model(input_ids=ids).logits, before)


@of("kept LoRA")
def test_streams_over_a_kept_lora_leave_its_text_and_its_tensors(tmp_path, name):
    base = wide(name, vocab_size=len(tiny_tokenizer()))
    kept = peft_folder(tmp_path / "kept", base, target_modules=targets_of(name))
    bare, plain = wide(name, vocab_size=len(tiny_tokenizer())), wide(name, vocab_size=len(tiny_tokenizer()))
    expected = texts(PeftModel.from_pretrained(plain, kept).eval())
    assert expected[:1] != texts(bare, PROMPTS[:1]), "the LoRA says what the base says, so that the test shows nothing"
    start = read_start(str(kept), bare, fingerprint(bare))
    hold(bare, start)
    trainer = make_trainer(tmp_path / "run", name, model=bare, mode="lossless")
    trainer.train()
    written = write_bundle(
        tmp_path / "own",
        trainer.model,
        tree=TreeConfig(**TREE),
        base=fingerprint(bare),
        provenance={},
        text_lora=start.text_lora,
    )
    before, after = load_file(kept / LORA), load_file(written.path / LORA)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert streamed(name, written.path)[0] == expected


def gradients(trainer, batch):
    torch.manual_seed(0)  # for dropout
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


@of("checkpointing")
def test_activation_checkpointing_gives_the_same_gradients(tmp_path, name):
    trainer = make_trainer(tmp_path, name, activation_checkpointing=False)
    batch = next(iter(trainer.get_train_dataloader()))
    plain = gradients(trainer, batch)
    trainer.model.base_model.activation_checkpointing_enable()
    again = gradients(trainer, batch)
    assert plain.keys() == again.keys()
    assert any(CONTAINER in n for n in plain)
    assert max(gradient.abs().max() for gradient in plain.values()) > 1e-4
    for n, gradient in plain.items():
        assert_close(again[n], gradient, rtol=1e-4, atol=1e-6)


# -- decoding ---------------------------------------------------------------------------------------------------


@of("four bits")
def test_a_four_bit_base_trains_and_says_what_it_says_without_streams(tmp_path, name):
    wide(name, vocab_size=len(tiny_tokenizer())).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    trained, plain, model = (
        load_base(tmp_path / "base", dtype="float32", quantization="4bit", device="cpu")[0] for _ in range(3)
    )
    assert any("4bit" in type(module).__name__ for module in model.modules())
    trainer = make_trainer(tmp_path / "run", name, model=trained, stream_learning_rate=0.1)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert all(not torch.equal(p, before[n]) for n, p in trainer.model.named_parameters() if "lora_B" in n)
    path = write_bundle(
        tmp_path / "own", trainer.model, tree=TreeConfig(**TREE), base=fingerprint(plain), provenance={}
    ).path
    plain, model = (PeftModel.from_pretrained(each, path).eval() for each in (plain, model))
    ids = torch.tensor(PROMPTS[:1])
    model.generation_config.eos_token_id = None
    found = model.generate(
        input_ids=ids,
        do_sample=False,
        max_new_tokens=TOKENS,
        pad_token_id=0,
        custom_generate=StreamGenerate.from_adapter(model, path),
    )
    assert found[0, ids.shape[1] :].tolist() == generate(plain, PROMPTS[0], TOKENS)


def bundle(folder, name, **changes):
    """A bundle of random streams over the tiny model; its path, and the texts of peft's model over it."""
    model = wide(name, vocab_size=len(tiny_tokenizer()))
    base = fingerprint(model)
    adapted = with_adapter(model, StreamConfig(3, 2), targets=targets_of(name))
    settings = {"tree": TreeConfig(**TREE), "provenance": {}, **changes}
    path = write_bundle(folder / "adapter", adapted, base=base, **settings).path
    plain = wide(name, vocab_size=len(tiny_tokenizer()))
    return path, texts(PeftModel.from_pretrained(plain, path).eval())


@of("draft vocabulary")
def test_a_draft_vocabulary_changes_no_text(tmp_path, name):
    ids = torch.arange(0, len(tiny_tokenizer()), 2)
    path, expected = bundle(tmp_path, name, draft_vocabulary=ids)
    assert read_bundle(path).draft_vocabulary.tolist() == ids.tolist()
    found, calls = streamed(name, path)
    assert found == expected
    assert sum(calls) < len(PROMPTS) * TOKENS, "no draft is ever right, so that the test shows little"


@of("budget")
def test_a_budget_that_follows_costs_changes_no_text(tmp_path, name, monkeypatch):
    monkeypatch.setenv("SSFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    path, expected = bundle(tmp_path, name, tree=TreeConfig(**TREE, budget="auto"))
    assert streamed(name, path)[0] == expected
