"""A base, a plain LoRA for it, and bundles whose streams have a LoRA of their own over that."""

from types import SimpleNamespace

import torch
from adapter_folders import peft_folder
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_base import rows, save_rows, save_tiny_base
from transformers import AutoModelForCausalLM

from ssft.recipes.recipe import load_recipe
from ssft.runs.prepare import prepare
from ssft.runs.train import train
from ssft.runtime.loader import load_adapted

LORA, OWN = "adapter_model.safetensors", "stream_lora.safetensors"
SETTINGS = [
    "dtype=float32", "lora.r=2", "lora.lora_alpha=4", "training.mode=lossless", "training.num_streams=3",
    "training.num_msa_layers=2", "training.per_device_train_batch_size=2", "training.logging_steps=1",
    "training.max_steps=2", "training.learning_rate=1e-2", "training.stream_loss_weight=1",
    "training.disable_tqdm=true", "data.validation_fraction=0.25", "tree.max_nodes=40", "tree.top_k=12",
    "tree.budget=fixed",
]  # fmt: skip
PROMPTS = [[41, 67, 75, 91, 2, 21, 28], [41, 67, 75, 91, 2, 18, 28, 2, 18]]
TOKENS = 16


def prepared(shelf, start, *extra, output=None):
    files = [f"base={shelf.base}", f"data.train={shelf.data}", f"adapter={start}"]
    return prepare(load_recipe("quickstart", [*files, *SETTINGS, *extra]), output or shelf.folder / "out", "cpu")


def trained(shelf, start, output, *extra):
    return train(prepared(shelf, start, *extra, output=output), output).path


def make_shelf(folder, architecture="llama"):
    """A base, a plain LoRA for it as somebody trained it with peft, and data."""
    base = save_tiny_base(folder / "base", architecture)
    plain = peft_folder(folder / "plain", AutoModelForCausalLM.from_pretrained(base))
    return SimpleNamespace(folder=folder, base=base, plain=plain, data=save_rows(folder / "train.jsonl", rows(8)))


def peft_texts(base, adapter=None):
    """What transformers and peft decode, row by row."""
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    model.generation_config.eos_token_id = None
    outputs = [
        model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
        for ids in PROMPTS
    ]
    return [output[0, len(ids) :].tolist() for output, ids in zip(outputs, PROMPTS, strict=True)]


def decoded(base, adapter, **settings):
    adapted = load_adapted(adapter, str(base), dtype="float32", **settings)
    return adapted.complete(PROMPTS, max_new_tokens=TOKENS, ignore_eos=True)


def change_all(folder, name, function):
    save_file({key: function(tensor) for key, tensor in load_file(folder / name).items()}, folder / name)
