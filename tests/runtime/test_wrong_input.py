"""The border of the Python interface: whatever is wrong is told at the call, by an error of ssft's own.

A raw `TypeError` or `RuntimeError` here is a defect, and so is a wrong value that passes in silence.
"""

import re
import threading

import numpy as np
import pytest
import torch
from shelf import shared_shelf

from ssft.decoding.config import TreeConfig
from ssft.decoding.request import Request
from ssft.errors import SSFTError
from ssft.runtime.generate import StreamGenerate
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig
from ssft.training.config import StreamSFTConfig

HALF = "\ud800"
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


@pytest.fixture(scope="module")
def model(shelf):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    model.load_adapter(shelf.paths["deep"])
    return model


PROMPTS = {
    "none": (None, "prompts is a NoneType"),
    "a number": (5, "prompts is a int"),
    "bytes": (b"say", "prompts is a bytes"),
    "a set": ({1, 2}, "prompts is a set"),
    "an array": (np.array([1, 2]), "prompts is a ndarray"),
    "half a pair": (f"say {HALF}", r"a prompt holds '\ud800' at character 4"),
    "empty": ("", "a prompt has no tokens"),
    "an id too large": ([5, 98], "a prompt has the token id 98, but the model knows 0 to 97"),
    "an id of many digits": ([10**6000], "the token id a number of some 6,000 digits"),
    "a negative id": ([5, -1], "a prompt has the token id -1"),
    "fractions": ([1.0, 2.0], "a prompt is a float (1.0)"),
    "truths": ([True, False], "a prompt is a bool (True)"),
    "a tensor of fractions": (torch.tensor([1.5]), "a prompt is a list ([1.5])"),
    "a tensor without a row": (torch.tensor(5), "prompts is a Tensor"),
    "a tensor too deep": (torch.ones(1, 1, 1, dtype=torch.long), "prompts is a Tensor"),
    "too long": ([5] * 4096, "a prompt has 4096 tokens, but the model's context holds 4096"),
    "a row without a prompt": ({"question": "?"}, "it needs `prompt` or `messages`"),
    "a row of a number": ({"prompt": 5}, "prompt=5, expected a text"),
    "a row of none": ({"prompt": None}, "prompt=None, expected a text"),
    "a row of half a pair": ({"prompt": HALF}, r"a prompt holds '\ud800'"),
    "a chat of nothing": ({"messages": []}, "the base's chat template refuses the messages"),
    "a chat of a text": ({"messages": "hi"}, "the base's chat template refuses the messages"),
    "a message without content": ([{"role": "user"}], "the base's chat template refuses the messages"),
    "a message of a number": ([{"role": "user", "content": 5}], "the base's chat template refuses the messages"),
    "a role of none": ([{"role": None, "content": "x"}], "the base's chat template refuses the messages"),
    "a message of half a pair": ([{"role": "user", "content": HALF}], r"a prompt holds '\ud800'"),
}
SETTINGS = {
    "limit: a fraction": ({"max_new_tokens": 1.5}, "max_new_tokens=1.5, expected a whole number from 1"),
    "limit: a text": ({"max_new_tokens": "5"}, "max_new_tokens='5', expected a whole number from 1"),
    "limit: none": ({"max_new_tokens": None}, "max_new_tokens=None, expected a whole number from 1"),
    "limit: a truth": ({"max_new_tokens": True}, "max_new_tokens=True, expected a whole number from 1"),
    "limit: zero": ({"max_new_tokens": 0}, "max_new_tokens=0: at least one token"),
    "limit: negative": ({"max_new_tokens": -3}, "max_new_tokens=-3: at least one token"),
    "limit: nothing": ({"max_new_tokens": []}, "max_new_tokens=[], expected a whole number from 1"),
    "limit: fractions": ({"max_new_tokens": [1.5]}, "max_new_tokens=[1.5], expected a whole number from 1"),
    "limit: several": ({"max_new_tokens": [1, 2]}, "max_new_tokens has 2 entries for 1 prompts"),
    "eos: a text": ({"ignore_eos": "no"}, "ignore_eos='no', expected True or False"),
    "adapter: a number": ({"adapter": 7}, "adapter=7: expected a name"),
    "adapter: a set": ({"adapter": {"deep"}}, "adapter={'deep'}: expected a name"),
    "adapter: unknown": ({"adapter": "dep"}, "adapter 'dep' is not loaded"),
}
FORMS = {
    "schema: a number": ({"json_schema": 5}, "json_schema=5, expected a dict or JSON text"),
    "schema: no JSON": ({"json_schema": "{"}, "json_schema is no JSON"),
    "schema: a slip": ({"json_schema": {"typ": 1}}, "json_schema has the key 'typ'"),
    "schema: never": ({"json_schema": {"enum": []}}, "json_schema cannot be met: Unsatisfiable schema"),
    "schema: itself": ({"json_schema": {"allOf": [{"$ref": "#"}]}}, "holds itself without an end"),
    "schema: rows": ({"json_schema": [{}, {}]}, "json_schema has 2 entries for 1 prompts"),
    "regex: bytes": ({"regex": b"a"}, "regex=b'a', expected a text"),
    "regex: open": ({"regex": "[a"}, "regex cannot be met: "),
    "regex: half a pair": ({"regex": HALF}, "regex holds half a surrogate pair"),
    "grammar: a number": ({"grammar": 1.5}, "grammar=1.5, expected a text"),
    "grammar: no rule": ({"grammar": "start: rule"}, "grammar cannot be met: "),
    "forms: two": ({"grammar": 'start: "a"', "regex": "a"}, "regex and grammar are given, but a text can follow one"),
    "form: other tokenizers": ({"regex": "a"}, "regex and grammar need a tokenizer whose tokens are known as bytes"),
}
STOPS = {
    "stop: a number": ({"stop": 5}, "stop=5: expected a string"),
    "stop: numbers": ({"stop": [5]}, "stop=[5]: expected a string"),
    "stop: empty": ({"stop": ""}, "hold an empty one"),
    "stop: half a pair": ({"stop": HALF}, r"stop holds '\ud800'"),
    "stop id: a fraction": ({"stop_token_ids": 5.5}, "stop_token_ids=5.5: expected token ids"),
    "stop id: a text": ({"stop_token_ids": "x"}, "stop_token_ids='x': expected token ids"),
    "stop id: a truth": ({"stop_token_ids": [True]}, "stop_token_ids=[True]: expected token ids"),
    "stop id: negative": ({"stop_token_ids": -1}, "stop_token_ids has the token id -1"),
    "stop id: too large": ({"stop_token_ids": [98]}, "stop_token_ids has the token id 98"),
    "processor: a number": ({"logits_processor": 5}, "processors=5, expected a list of logits processors"),
    "processor: numbers": ({"logits_processor": [5]}, "processors=[5], expected a list of logits processors"),
    "processor: alone": ({"logits_processor": max}, "expected a list of logits processors"),
    "speculate: a text": ({"speculate": "no"}, "speculate='no', expected True or False"),
}
CALLS = {
    "batch: zero": ({"batch_size": 0}, "batch_size=0, expected a whole number from 1"),
    "batch: a fraction": ({"batch_size": 1.5}, "batch_size=1.5, expected a whole number from 1"),
    "batch: a text": ({"batch_size": "2"}, "batch_size='2', expected a whole number from 1"),
    "batch: a truth": ({"batch_size": True}, "batch_size=True, expected a whole number from 1"),
    "progress: a text": ({"progress": "yes"}, "progress='yes', expected True or False"),
    "speculate: a number": ({"speculate": 1}, "speculate=1, expected True or False"),
}
ANSWERS = {
    "dict: a number": ({"return_dict": 1}, "return_dict=1, expected True or False"),
    "streamer: a number": ({"streamer": 5}, "streamer=5, expected an object with `put` and `end`"),
    "cancel: a truth": ({"cancel": True}, "cancel=True, expected a threading.Event"),
}


def on_the_cpu(**settings):
    return StreamSFTConfig("out", use_cpu=True, bf16=False, **settings)


FIELDS = {"prompt": [1, 2], "max_new_tokens": 5}

CASES = {
    **{f"generate, {name}": (lambda m, p=p: m.generate(p), told) for name, (p, told) in PROMPTS.items()},
    **{f"a batch, {name}": (lambda m, p=p: m.generate(["x", p]), told)
       for name, (p, told) in PROMPTS.items() if not told.startswith("prompts is") and "is a float" not in told
       and "is a bool" not in told and "tensor" not in name},
    **{f"stream, {name}": (lambda m, p=p: m.stream(p), told)
       for name, (p, told) in PROMPTS.items() if "is a float" not in told and "is a bool" not in told},
    **{f"complete, {name}": (lambda m, p=p: m.complete([p], max_new_tokens=4), told)
       for name, (p, told) in PROMPTS.items() if name in ("half a pair", "an id too large", "too long")},
    **{f"generate, {name}": (lambda m, s=s: m.generate("x", **s), told)
       for name, (s, told) in (SETTINGS | FORMS | STOPS | CALLS | ANSWERS).items()},
    **{f"stream, {name}": (lambda m, s=s: m.stream("x", **s), told)
       for name, (s, told) in (SETTINGS | FORMS | STOPS).items()},
    **{f"complete, {name}": (lambda m, s=s: m.complete([[5]], **{"max_new_tokens": 4, **s}), told)
       for name, (s, told) in (SETTINGS | FORMS | CALLS).items()},
    "complete, none": (lambda m: m.complete(None, max_new_tokens=4), "prompts is a NoneType"),
    "complete, a text": (lambda m: m.complete("ab", max_new_tokens=4), "complete takes a list of prompts"),
    "complete, a drafter": (lambda m: m.complete([[5]], max_new_tokens=4, drafter=5), "drafter=5, expected a Drafter"),
    "encode": (lambda m: m.encode(HALF), "a prompt holds"),
    "set_adapter": (lambda m: m.set_adapter(["deep"]), "adapter ['deep'] is not loaded"),
    "delete_adapter": (lambda m: m.delete_adapter(None), "None is the bare base"),
    "pin_adapter": (lambda m: m.pin_adapter(None), "None is the bare base"),
    "custom_generate": (lambda m: m.custom_generate({}), "adapter {} is not loaded"),
    "load_adapter, none": (lambda m: m.load_adapter(None), "path=None, expected a path or a name"),
    "load_adapter, NUL": (lambda m: m.load_adapter("a\0b"), r"path='a\x00b', expected a path or a name"),
    "load_adapter, half a pair": (lambda m: m.load_adapter(HALF), r"path='\ud800', expected a path or a name"),
    "load_adapter, long": (lambda m: m.load_adapter("a" * 5000), "is no folder"),
    "load_adapter, a name": (lambda m: m.load_adapter("x", 5), "name=5, expected a name or None"),
    "load_adapter, a tree": (lambda m: m.load_adapter("x", tree={}), "tree={}, expected a TreeConfig"),
    "load_adapted, number": (lambda m: load_adapted(5), "adapter=5, expected a path or a name"),
    "load_adapted, NUL": (lambda m: load_adapted("a\0b"), r"adapter='a\x00b', expected a path or a name"),
    "load_adapted, nothing": (lambda m: load_adapted(None), "neither an adapter nor a base was given"),
    "load_adapted, base": (lambda m: load_adapted(None, 5), "base=5, expected a path or a name"),
    "load_adapted, base NUL": (lambda m: load_adapted(None, "a\0b"), r"base='a\x00b', expected a path or a name"),
    "load_adapted, base long": (lambda m: load_adapted(None, "a" * 5000), "is neither an alias"),
    "load_adapted, dtype": (lambda m: load_adapted(None, "x", dtype="int8"), "dtype 'int8' is unknown"),
    "load_adapted, dtype none": (lambda m: load_adapted(None, "x", dtype=None), "dtype None is unknown"),
    "load_adapted, bits": (lambda m: load_adapted(None, "x", quantization=4), "quantization 4 is unknown"),
    "load_adapted, device": (lambda m: load_adapted(None, "x", device="xyz"), "device 'xyz' is unknown"),
    "load_adapted, device number": (lambda m: load_adapted(None, "x", device=1.5), "device 1.5 is unknown"),
    "load_adapted, merge": (lambda m: load_adapted(None, "x", merge="no"), "merge='no', expected True or False"),
    "a model of nothing": (lambda m: MultiAdapterModel(None, m.tokenizer), "model=None, expected a causal LM"),
    "no tokenizer": (lambda m: MultiAdapterModel(m.model, None), "tokenizer=None, expected the base's tokenizer"),
    "budget: a text": (
        lambda m: MultiAdapterModel(m.model, m.tokenizer, max_adapter_bytes="1G"), "max_adapter_bytes='1G', expected"),
    "budget: zero": (lambda m: MultiAdapterModel(m.model, m.tokenizer, max_adapter_bytes=0), "max_adapter_bytes=0"),
    "StreamGenerate, a tree": (lambda m: StreamGenerate(m.hooks, None, {"max_nodes": 3}), "expected a TreeConfig"),
    "StreamGenerate, a path": (lambda m: StreamGenerate.from_adapter(m.model, None), "adapter=None, expected a path"),
    "a request, a text": (lambda m: Request(**FIELDS | {"prompt": "say"}), "prompt='say', expected a list of token"),
    "a request, fractions": (lambda m: Request(**FIELDS | {"prompt": [1.5]}), "prompt=[1.5], expected a list of token"),
    "a request, none": (lambda m: Request(**FIELDS | {"prompt": None}), "prompt=None, expected a list of token ids"),
    "a request, a limit": (lambda m: Request(**FIELDS | {"max_new_tokens": 1.5}), "max_new_tokens=1.5, expected a"),
    "a request, a tree": (lambda m: Request(**FIELDS, tree={}), "tree={}, expected a TreeConfig"),
    "a request, a stop": (lambda m: Request(**FIELDS, stop="x"), "stop='x', expected a callable or None"),
    "a request, stop ids": (lambda m: Request(**FIELDS, stop_token_ids=5), "stop_token_ids=5, expected a set of token"),
    "a request, a grammar": (lambda m: Request(**FIELDS, grammar="a"), "grammar='a', expected a Grammar or None"),
    "a request, eos": (lambda m: Request(**FIELDS, eos_token_ids={"x"}), "eos_token_ids={'x'}, expected a set of"),
    "a request, processors": (lambda m: Request(**FIELDS, processors=5), "processors=5, expected a list of logits"),
    "tree: a fraction": (lambda m: TreeConfig(top_k=2.5), "tree.top_k=2.5, expected int"),
    "tree: a text": (lambda m: TreeConfig(max_nodes="16"), "tree.max_nodes='16', expected int"),
    "tree: none": (lambda m: TreeConfig(kind=None), "tree.kind=None, expected str"),
    "tree: unknown": (lambda m: TreeConfig(kind="star"), "tree.kind='star': expected one of"),
    "tree: a truth": (lambda m: TreeConfig(max_depth=True), "tree.max_depth=True, expected int"),
    "tree: negative": (lambda m: TreeConfig(max_stream_nodes=-1), "tree.max_stream_nodes=-1"),
    "tree: a chance of one": (lambda m: TreeConfig(prune_below=1.0), "tree.prune_below=1.0, expected a number from"),
    "tree: a chance that is none": (lambda m: TreeConfig(prune_below=float("nan")), "tree.prune_below=nan, expected a"),
    "tree: fewer than none": (lambda m: TreeConfig(prune_keep=-1), "tree.prune_keep=-1: 0 (all nodes) or a positive"),
    "tree: many digits": (lambda m: TreeConfig(top_k=-(10**6000)), "tree.top_k="),
    "streams: a fraction": (lambda m: StreamConfig(num_streams=2.5), "num_streams=2.5, expected int"),
    "streams: a text": (lambda m: StreamConfig(num_msa_layers="8"), "num_msa_layers='8', expected int"),
    "streams: none": (lambda m: StreamConfig(mode=None), "mode=None, expected str"),
    "streams: zero": (lambda m: StreamConfig(num_streams=0), "num_streams=0: γ must lie between"),
    "streams: a rank below zero": (lambda m: StreamConfig(prune_head_rank=-1), "prune_head_rank=-1: θ is 0 (no prune"),
    "streams: negative": (lambda m: StreamConfig(projection_rank=-1), "projection_rank=-1"),
    "training: a rate": (lambda m: on_the_cpu(stream_learning_rate=-1), "stream_learning_rate=-1, expected"),
    "training: NaN": (lambda m: on_the_cpu(stream_loss_weight=float("nan")), "stream_loss_weight=nan"),
    "training: streams": (lambda m: on_the_cpu(num_streams=2.5), "num_streams=2.5, expected int"),
    "training: a weight": (lambda m: on_the_cpu(prune_loss_weight=-1), "prune_loss_weight=-1, expected a number"),
    "training: a decay": (lambda m: on_the_cpu(stream_loss_decay=0), "stream_loss_decay=0, expected a number above 0"),
    "training: supervision": (lambda m: on_the_cpu(stream_supervision="x"), "stream_supervision='x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_at_the_call(model, case):
    call, told = CASES[case]
    before = list(model.adapters()), model.active_adapter
    with pytest.raises(SSFTError, match=re.escape(told)):
        call(model)
    assert (list(model.adapters()), model.active_adapter) == before


def test_the_matrix_is_as_large_as_it_says():
    assert len(CASES) > 150


def test_numbers_of_numpy_and_events_are_no_mistakes(model):
    settings = {"max_new_tokens": np.int64(3), "batch_size": np.int32(1), "cancel": threading.Event()}
    assert model.generate([CHAT, "x"], ignore_eos=True, return_dict=True, **settings)[1]["tokens"] == 3
