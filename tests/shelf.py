"""A tiny base on disk and a shelf of adapters for it that differ in everything an adapter may differ in."""

import atexit
import functools
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from conftest import LAYERS
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_base import save_tiny_base

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_bundle
from ssft.card.write import write_card
from ssft.decoding.config import TreeConfig
from ssft.streams.config import StreamConfig
from ssft.streams.modules import attach_streams

ATTENTION = ["q_proj", "v_proj"]

# name: LoRA settings, streams, tree. Trees are wide, so that some drafts of random streams are right.
SHELF = {
    "deep": ({"r": 4}, StreamConfig(3, 2), TreeConfig("best_first", 40, 12)),
    "many": ({"r": 8}, StreamConfig(5, 3, "rotation"), TreeConfig("best_first", 24, 20, max_stream_nodes=5)),
    "small": ({"r": 2, "target_modules": ATTENTION}, StreamConfig(1, 1), TreeConfig("chain", 9)),
    "projected": ({"r": 6, "lora_alpha": 3}, StreamConfig(2, 2, "embedding", 3), TreeConfig("k_ary", 31, 5)),
    "lossless": (
        {
            "r": 4,
            "target_modules": ["q_proj", "k_proj", "v_proj"],
            "layers_to_transform": [LAYERS - 2, LAYERS - 1],
            "layers_pattern": "layers",
        },
        StreamConfig(4, 2, mode="lossless"),
        TreeConfig("best_first", 32, 10),
    ),
}
OWN = "own"  # streams with a LoRA of their own over another one
PLAIN = "plain"  # a LoRA without streams, as peft writes it


def save_adapter(folder, base, lora=None, streams=None, tree=None, seed=0, scale=0.2, text_lora=None, loaded=None):
    """A bundle with random weights for the base in the folder `base`; without `streams` a plain peft folder.

    With `text_lora` those weights are the streams' own. loaded: (model, tokenizer) of the base, which stays as it is.
    """
    model, tokenizer = loaded or load_base(base, dtype="float32")
    torch.manual_seed(100 + seed)
    settings = {"r": 4, "target_modules": "all-linear", **(lora or {})}
    peft_model = get_peft_model(model, LoraConfig(**{"lora_alpha": 2 * settings["r"], **settings}))
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale / settings["r"] ** 0.5)
    if streams is None:
        peft_model.save_pretrained(folder)
    else:
        for parameter in attach_streams(peft_model, streams).parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        fingerprint = base_fingerprint(model, tokenizer, base)
        write_card(write_bundle(folder, peft_model, tree=tree or TreeConfig(), base=fingerprint, text_lora=text_lora))
    peft_model.unload()
    return folder


def save_shelf(folder, architecture="llama"):
    """(base folder, {name: adapter folder}) with every adapter of `SHELF` and a plain one."""
    base = save_tiny_base(folder / "base", architecture)
    save = functools.partial(save_adapter, base=base, loaded=load_base(base, dtype="float32"))
    paths = {
        name: save(folder / name, lora=lora, streams=streams, tree=tree, seed=seed)
        for seed, (name, (lora, streams, tree)) in enumerate(SHELF.items())
    }
    paths[PLAIN] = save(folder / PLAIN, seed=len(SHELF))
    lora, streams, tree = SHELF["lossless"]
    text = read_bundle(save(folder / "text", lora={"r": 3}, seed=len(SHELF) + 1)).text_lora
    own = {"lora": lora, "streams": streams, "tree": tree, "seed": len(SHELF) + 2, "text_lora": text}
    paths[OWN] = save(folder / OWN, **own)
    return base, paths


@functools.cache
def shared_shelf(architecture="llama"):
    """One read-only shelf per test process: base, paths {name: folder} and its `Reference`."""
    folder = Path(tempfile.mkdtemp(prefix="ssft-shelf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    base, paths = save_shelf(folder, architecture)
    return SimpleNamespace(base=base, paths=paths, reference=Reference(base, paths))


class Reference:
    """What transformers and peft say, one row and one adapter at a time, on a model that ssft never touches."""

    def __init__(self, base, paths):
        self.base, self.paths = base, paths
        self._text = functools.cache(self._generate)

    def __call__(self, prompt, adapter, tokens, eos=()):
        """Greedy token ids; a lossless adapter says what the bare base says."""
        adapter = None if adapter == "lossless" else adapter
        return self._text(tuple(prompt), adapter, tokens, tuple(sorted(eos)))

    @functools.cached_property
    def _model(self):
        """The base with every adapter, as peft holds several."""
        (name, path), *others = self.paths.items()
        model = PeftModel.from_pretrained(load_base(self.base, dtype="float32")[0], str(path), adapter_name=name)
        for name, path in others:
            model.load_adapter(str(path), name)
        return model.eval()

    @contextmanager
    def model(self, adapter):
        """peft's model, of which this adapter is the active one, or none is."""
        if adapter is None:
            with self._model.disable_adapter():
                yield self._model
        else:
            self._model.set_adapter(adapter)
            yield self._model

    def _generate(self, prompt, adapter, tokens, eos):
        ids = torch.tensor([prompt])
        with self.model(adapter) as model:
            # Set on the model: generate() takes an argument None as "look there".
            model.generation_config.eos_token_id = list(eos) or None
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            output = model.generate(**inputs, do_sample=False, max_new_tokens=tokens, pad_token_id=0)
        return output[0, len(prompt) :].tolist()
