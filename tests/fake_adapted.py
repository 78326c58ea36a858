"""An `AdaptedModel` by hand: a tiny random model in float32 with random streams, and prompts for it."""

import random

from conftest import VOCABULARY, tiny_llama, with_adapter

from ssft.adapters.bundle import write_bundle
from ssft.adapters.loader import AdaptedModel
from ssft.bases import base_fingerprint, load_base
from ssft.decoding.config import TreeConfig
from ssft.streams.config import StreamConfig
from ssft.streams.insertion import StreamHooks
from ssft.streams.modules import streams_of


class FakeTokenizer:
    """Text is token ids, written as numbers."""

    pad_token_id = 0
    chat_template = None

    def __call__(self, text, **_):
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def fake_adapted(build=tiny_llama, streams=True, eos=(), **changes):
    """Streams are random, so drafts are mostly rejected; the tree is wide, so that some are not."""
    config = StreamConfig(num_streams=3, num_msa_layers=2) if streams else None
    model = with_adapter(build(**changes), config)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return AdaptedModel(
        model=model,
        tokenizer=FakeTokenizer(),
        hooks=StreamHooks(model),
        streams=streams_of(model),
        tree=TreeConfig(max_nodes=48, top_k=20),
        name="tiny",
        eos_token_ids=set(eos),
        precision="float32",
        device="cpu: test, 1 threads",
    )


def random_prompts(count, seed=0):
    """Prompts of 3 to 9 tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(3, VOCABULARY) for _ in range(draw.randint(3, 9))] for _ in range(count)]


def save_bundle(folder, base):
    """An adapter bundle with random streams over the tiny base in the folder `base` (`tiny_base.save_tiny_base`)."""
    model, tokenizer = load_base(base, dtype="float32")
    adapted = with_adapter(model, StreamConfig(num_streams=3, num_msa_layers=2))
    fingerprint = base_fingerprint(model, tokenizer, base)
    provenance = {"ssft": "0", "train_seconds": 1.5, "history": [{"loss": 1.0}]}
    tree = TreeConfig(max_nodes=48, top_k=20)
    return write_bundle(folder, adapted, tree=tree, base=fingerprint, provenance=provenance).path
