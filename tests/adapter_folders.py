"""Adapter folders as peft writes them, ways to spoil them, and what peft itself computes from one."""

import json
from contextlib import contextmanager

import torch
from conftest import VOCABULARY, random_ids
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from ssft.bundle.read import read_bundle
from ssft.lora.weights import LoraWeights


def peft_folder(folder, model, dtype=torch.float32, **changes):
    """A folder as peft writes it, of a LoRA that is no identity; `model` is used up."""
    torch.manual_seed(1)
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    peft_model = get_peft_model(model, LoraConfig(**{**config, **changes}))
    for name, parameter in peft_model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    peft_model.to(dtype).save_pretrained(folder, save_embedding_layers=False)
    return folder


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.25)
    return GPT2LMHeadModel(config).eval()


def fitted(folder, model):
    """The LoRA of a folder over `model`."""
    return LoraWeights.from_bundle(read_bundle(folder), model)


@contextmanager
def added_by_hand(model, weights):
    """The sum of the module's docstring, in forward hooks."""

    def hook_of(layer):
        down, up = layer.down.to(model.dtype), layer.up.to(model.dtype)
        return lambda _module, args, out: out + (args[0] @ down.T @ up.T) * layer.scaling

    handles = [
        model.get_submodule(name).register_forward_hook(hook_of(layer)) for name, layer in weights.layers.items()
    ]
    yield
    for handle in handles:
        handle.remove()


@torch.no_grad()
def check_equals_peft(folder, build, atol=1e-5):
    """Logits with the sum added by hand against PeftModel's; returns the weights."""
    ids = random_ids(2, 9)
    model = build()
    bare = model(input_ids=ids).logits
    weights = fitted(folder, model)
    with added_by_hand(model, weights):
        found = model(input_ids=ids).logits
    reference = PeftModel.from_pretrained(build(), folder).eval()(input_ids=ids).logits
    torch.testing.assert_close(found, reference, atol=atol, rtol=0)
    assert (found - bare).abs().max() > 0.1, "the adapter changes nothing, so the test shows nothing"
    return weights


def change_json(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensor(folder, name, function):
    tensors = load_file(folder / name)
    key = sorted(tensors)[-1]
    save_file({**tensors, key: function(tensors[key])}, folder / name)


def change_config(folder, **changes):
    change_json(folder, "adapter_config.json", **changes)


def change_tensors(folder, function):
    path = folder / "adapter_model.safetensors"
    save_file(function(load_file(path)), path)
