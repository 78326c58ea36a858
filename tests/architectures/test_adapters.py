"""Every tested architecture: bundles over one base in one batch say what transformers and peft say with each alone."""

import pytest
import torch
from conftest import with_adapter
from oracle import PROMPTS, TOKENS, generate
from peft import PeftModel
from tiny_architectures import ARCHITECTURES, targets_of, tiny
from tiny_base import tiny_tokenizer

from ssft.base.fingerprint import base_fingerprint
from ssft.base.kernels.linears import kernel_bytes
from ssft.bundle.write import write_bundle
from ssft.decoding.config import TreeConfig
from ssft.runtime.generate import StreamGenerate
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig

NAMES = [name for name in sorted(ARCHITECTURES) if "-" not in name]
ADAPTERS = {"a": StreamConfig(3, 2), "b": StreamConfig(2, 1, projection_rank=2)}


def bundles(folder, name):
    """Two bundles over the tiny model: {adapter: folder}."""
    paths = {}
    for seed, (adapter, config) in enumerate(ADAPTERS.items(), start=1):
        model = tiny(name)
        base = base_fingerprint(model, tiny_tokenizer(), name)
        adapted = with_adapter(model, config, seed=seed, targets=targets_of(name))
        tree = TreeConfig(max_nodes=20, top_k=12)
        paths[adapter] = write_bundle(folder / adapter, adapted, tree=tree, base=base, provenance={}).path
    return paths


@pytest.mark.parametrize("name", NAMES)
def test_mixed_batch_and_custom_generate_say_what_peft_says(tmp_path, name):
    paths = bundles(tmp_path, name)
    bare = generate(tiny(name), PROMPTS[2], TOKENS)
    plain = {adapter: PeftModel.from_pretrained(tiny(name), path).eval() for adapter, path in paths.items()}
    texts = [generate(plain["a"], PROMPTS[0], TOKENS), generate(plain["b"], PROMPTS[1], TOKENS), bare]
    alone = {adapter: generate(each, PROMPTS[2], 8) for adapter, each in plain.items()}
    assert bare[:8] != alone["a"] != alone["b"] != bare[:8], "they say the same, so that the test shows nothing"
    model = MultiAdapterModel(tiny(name), tiny_tokenizer(), name)
    assert kernel_bytes(model.model) > 0
    for path in paths.values():
        model.load_adapter(path)
    results = model.generate(
        PROMPTS, adapter=["a", "b", None], max_new_tokens=TOKENS, ignore_eos=True, return_dict=True
    )
    assert [result["token_ids"] for result in results] == texts
    streamed = StreamGenerate.from_adapter(plain["a"], paths["a"])
    ids = torch.tensor([PROMPTS[0]])
    output = plain["a"].generate(
        input_ids=ids, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0, custom_generate=streamed
    )
    assert output[0, len(PROMPTS[0]) :].tolist() == texts[0]
