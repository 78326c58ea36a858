"""A `MultiAdapterModel` by hand: a tiny random model in float32 with random streams, and prompts for it."""

import random

import torch
from conftest import VOCABULARY, tiny_llama, with_adapter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.write import write_bundle
from ssft.decoding.config import TreeConfig
from ssft.lora.bank import Adapter
from ssft.lora.weights import LoraWeights
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig
from ssft.streams.modules import streams_of


class FakeTokenizer:
    """Text is token ids, written as numbers."""

    pad_token_id, eos_token_id = 0, None
    chat_template = None
    added_tokens_decoder: dict = {}  # noqa: RUF012

    def get_vocab(self):
        return {str(token): token for token in range(VOCABULARY)}

    def __call__(self, text, **_):
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def fake_adapted(build=tiny_llama, streams=True, eos=(), scale=0.2, name="tiny", prune_head_rank=0, **changes):
    """Streams are random, so drafts are mostly rejected; the tree is wide, so that some are not. scale: the LoRA's."""
    config = StreamConfig(num_streams=3, num_msa_layers=2, prune_head_rank=prune_head_rank) if streams else None
    model = with_adapter(build(**changes), config, scale=scale)
    modules = streams_of(model)
    base = model.merge_and_unload()
    base.generation_config.eos_token_id = base.generation_config.pad_token_id = None
    adapted = MultiAdapterModel(base, FakeTokenizer(), "tiny-base")
    # The base has the LoRA in its weights.
    adapter = Adapter(name, streams=modules, tree=TreeConfig(max_nodes=48, top_k=20))
    adapted.bank.put(adapter, LoraWeights({}, torch.float32, [], []))
    adapted.set_adapter(name)
    adapted.eos_token_ids, adapted.device = set(eos), "cpu: test, 1 threads"
    return adapted


def random_prompts(count, seed=0):
    """Prompts of 3 to 9 tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(3, VOCABULARY) for _ in range(draw.randint(3, 9))] for _ in range(count)]


def save_bundle(folder, base, mode="shared"):
    """An adapter bundle with random streams over the tiny base in the folder `base` (`tiny_base.save_tiny_base`)."""
    model, tokenizer = load_base(base, dtype="float32")
    adapted = with_adapter(model, StreamConfig(num_streams=3, num_msa_layers=2, mode=mode))
    fingerprint = base_fingerprint(model, tokenizer, base)
    provenance = {"ssft": "0", "train_seconds": 1.5, "history": [{"loss": 1.0}]}
    tree = TreeConfig(max_nodes=48, top_k=20)
    return write_bundle(folder, adapted, tree=tree, base=fingerprint, provenance=provenance).path


def counting(build, step=1, **changes):
    """A model whose next token is the last one plus `step`, modulo the vocabulary, so that its text is known by hand.

    Embeddings are unit vectors, the layers add nothing, and the head shifts.
    """
    model = build(**changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or any(
                part in name for part in ("o_proj", "out_proj", "down_proj", "fc2", "posi")
            ):
                parameter.zero_()
        unit = torch.eye(VOCABULARY, model.config.hidden_size)
        model.get_input_embeddings().weight.copy_(unit)
        model.get_output_embeddings().weight.copy_(unit.roll(step, dims=0))
    return model


def save_draft(folder, model):
    """A model as the folder of a draft, with the tokenizer that has `FakeTokenizer`'s vocabulary."""
    tokenizer = Tokenizer(models.WordLevel(FakeTokenizer().get_vocab(), unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder
