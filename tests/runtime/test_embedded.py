"""The embedded base itself: a mixed batch of 12 rows over three adapters and the bare base, in float32."""

import random

import pytest
from embedded_base import BASE, needs_base
from shelf import Reference, save_adapter

from ssft.base.embedded import base_path
from ssft.base.load import load_base
from ssft.decoding.config import TreeConfig
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig

TOKENS = 8
ADAPTERS = {
    # LoRA, streams, tree, and how loud the random LoRA is.
    "a": ({"r": 4}, StreamConfig(3, 4), TreeConfig("best_first", 24, 12), 0.1),
    "b": ({"r": 8, "target_modules": ["q_proj", "v_proj"]}, StreamConfig(5, 8), TreeConfig("best_first", 16, 6), 2.0),
    "c": ({"r": 2, "target_modules": ["down_proj"]}, StreamConfig(2, 2, "rotation"), TreeConfig("chain", 3), 0.6),
}
PROMPTS = [
    "The capital of France is",
    "Write one SQL query that counts the rows of table t.\n\nSQL:\n",
    "Once upon a time",
    "def add(a, b):\n    return",
]

pytestmark = [pytest.mark.slow, needs_base]


def test_a_mixed_batch_of_twelve_rows_is_what_each_row_is_alone(tmp_path):
    base = base_path(BASE)
    loaded = load_base(base, dtype="float32", device="cpu")
    paths = {
        name: save_adapter(tmp_path / name, base, *settings, seed=seed, scale=scale, loaded=loaded)
        for seed, (name, (*settings, scale)) in enumerate(ADAPTERS.items())
    }
    model = MultiAdapterModel(*loaded, base)
    for path in paths.values():
        model.load_adapter(path)
    reference = Reference(base, paths)
    batch = [(prompt, name) for prompt in PROMPTS for name in ("a", "b", "c", None)][:-4]
    batch = [*batch[:6], *[(prompt + " 7", name) for prompt, name in batch[6:]]]
    assert len(batch) == 12
    expected = [reference(model.tokenizer(prompt)["input_ids"], name, TOKENS) for prompt, name in batch]
    first = {name: ids for (prompt, name), ids in zip(batch[:4], expected[:4], strict=True)}
    assert len({tuple(ids) for ids in first.values()}) == 4, "adapters and base say the same, so the test shows nothing"
    order = random.Random(1).sample(range(12), 12)
    results = model.generate(
        [batch[i][0] for i in order],
        [batch[i][1] for i in order],
        max_new_tokens=TOKENS,
        ignore_eos=True,
        return_dict=True,
    )
    assert [r["token_ids"] for r in results] == [expected[i] for i in order]
