"""What a pass costs on your device: with a base of random weights in the shape of a larger one, or with an adapter.

    python examples/pass_costs.py adapters/sql
    python examples/pass_costs.py 1b 7b --quantization 4bit

A name of `SHAPES` stands for a base of random weights with a random adapter over it, so that nothing has to be
downloaded to know what its passes would cost; anything else is an adapter's folder. On a GPU every pass is measured
twice, replayed as a CUDA graph and operator by operator. The passes are those that `ssft tune` measures, of one row
over some 200 tokens.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ssft.base.embedded import fetch
from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import auto_dtype, named_device
from ssft.bundle.write import write_bundle
from ssft.decoding.config import TreeConfig
from ssft.environment import describe_device
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig, layers_of_share
from ssft.streams.modules import attach_streams

# Of Llama 3.2 1B and Llama 2 7B; tiny is for trying this file.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": 256, "inner": 512, "layers": 4, "heads": 8, "kv": 4, "vocabulary": 49152, "tied": True},
    "1b": {"hidden": 2048, "inner": 8192, "layers": 16, "heads": 32, "kv": 8, "vocabulary": 128256, "tied": True},
    "7b": {"hidden": 4096, "inner": 11008, "layers": 32, "heads": 32, "kv": 32, "vocabulary": 32000, "tied": False},
}
PASSES = ((1, 0), (4, 1), (8, 1), (8, 4), (16, 4))  # nodes, and how many of them have streams


def random_base(shape: str, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama of that shape with random weights on `device`."""
    size = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=size["hidden"],
        intermediate_size=size["inner"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv"],
        vocab_size=size["vocabulary"],
        tie_word_embeddings=size["tied"],
    )
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def quantise(model: LlamaForCausalLM) -> None:
    """Store the decoder's linear layers as NF4."""
    import bitsandbytes as bnb

    for module in list(model.model.layers.modules()):
        for name, linear in list(module.named_children()):
            if isinstance(linear, torch.nn.Linear):
                packed = bnb.nn.Linear4bit(
                    linear.in_features, linear.out_features, False, linear.weight.dtype, quant_type="nf4"
                )
                packed.weight = bnb.nn.Params4bit(linear.weight.detach().cpu(), requires_grad=False, quant_type="nf4")
                setattr(module, name, packed.to(linear.weight.device))


def random_adapter(folder: Path, model: LlamaForCausalLM, tokenizer: object) -> Path:
    """A LoRA of rank 8 and four streams in two fifths of the layers, with random weights; the base stays as it is."""
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    attach_streams(adapted, StreamConfig(4, layers_of_share(0.4, model.config.num_hidden_layers)))
    tree = TreeConfig("best_first", 16)
    write_bundle(folder, adapted, tree=tree, base=base_fingerprint(model, tokenizer, "random"))
    adapted.unload()
    return folder


def opened(
    what: str, device: torch.device, dtype: torch.dtype, quantization: str = "none", graphs: bool = True
) -> MultiAdapterModel:
    """The adapter of that folder over its base, or a random one over a random base of that shape."""
    if what not in SHAPES:
        return load_adapted(what, quantization=quantization, device=str(device), graphs=graphs)
    model = random_base(what, device, dtype)
    if quantization == "4bit":
        quantise(model)
    tokenizer = AutoTokenizer.from_pretrained(fetch("smollm2-135m"))
    with tempfile.TemporaryDirectory() as folder:
        path = random_adapter(Path(folder, "random"), model, tokenizer)
        adapted = MultiAdapterModel(model, tokenizer, "random", graphs=graphs)
        adapted.set_adapter(adapted.load_adapter(path, pinned=True))
    return adapted


def measured(adapted: MultiAdapterModel) -> list[float]:
    """Milliseconds of `PASSES`."""
    table = adapted.measure_costs(1, again=True)[1].table(16, 4)
    return [float(table[nodes - 1, sources]) for nodes, sources in PASSES]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help=f"{', '.join(SHAPES)} or an adapter's folder")
    parser.add_argument("--quantization", choices=("none", "4bit"), default="none")
    parser.add_argument("--device")
    options = parser.parse_args(arguments)
    device = named_device(options.device)
    dtype = auto_dtype(device)
    precision = "NF4" if options.quantization == "4bit" else str(dtype).removeprefix("torch.")
    print(f"{describe_device(device)}, {precision}; milliseconds of a pass of one row (times a plain pass)\n")
    print("| base | passes | " + " | ".join(f"{n} nodes, {m} with streams" if m else "plain" for n, m in PASSES) + " |")
    print("|---|---|" + "---|" * len(PASSES))
    for what in options.what:
        for graphs in (True, False) if device.type == "cuda" else (False,):
            found = measured(opened(what, device, dtype, options.quantization, graphs))
            cells = " | ".join(f"{ms:.2f} ({ms / found[0]:.2f})" for ms in found)
            print(f"| {what} | {'CUDA graphs' if graphs else 'operator by operator'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
