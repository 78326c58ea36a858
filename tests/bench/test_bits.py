"""Bit for bit in bfloat16: a row's text is its own, and the search for an operation that would make it another's."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from embedded_base import BASE

from ssft.base.load import auto_dtype
from ssft.bench.bits import first_operation
from ssft.bundle.shipped import shipped_adapters
from ssft.cli import verify
from ssft.cli._adapted import Decoding
from ssft.runtime.model import MultiAdapterModel

TOKENS = 16
BRANCH = " (on a side branch of the tree)"
"""There attention adds in another order, which may move a bit."""


@pytest.fixture(scope="module")
def model(embedded_base):
    if auto_dtype("cpu") != torch.bfloat16:
        pytest.skip("needs a CPU with bfloat16 instructions")
    model = MultiAdapterModel.from_pretrained(BASE, dtype="bfloat16", device_map="cpu")
    for folder in shipped_adapters().values():
        model.load_adapter(folder)
    return model


@pytest.fixture(scope="module")
def prompts(model):
    """The example of every shipped adapter's card, and the same with a shorter question."""
    told = {name: adapter.bundle.provenance["example"] for name, adapter in model.adapters().items()}
    examples = {name: model.encode(example) for name, example in told.items()}
    return [(name, ids) for name, whole in examples.items() for ids in (whole, whole[: len(whole) // 2])]


def test_in_bfloat16_a_row_is_what_it_is_alone_and_plainly(model, prompts, monkeypatch):
    """Streams in trees that are chains, neighbours with other adapters and other lengths: none of them moves a bit."""
    for adapter in model.adapters().values():
        monkeypatch.setattr(adapter, "tree", replace(adapter.tree, kind="chain"))
    alone = [model.complete([ids], name, max_new_tokens=TOKENS, speculate=False)[0].token_ids for name, ids in prompts]
    assert len({tuple(ids) for ids in alone}) == len(prompts)
    names, ids = [name for name, _ in prompts], [ids for _, ids in prompts]
    plain = model.complete(ids, names, max_new_tokens=TOKENS, speculate=False)
    mixed = model.complete(ids, names, max_new_tokens=TOKENS)
    assert [result.token_ids for result in plain] == alone
    assert [result.token_ids for result in mixed] == alone
    assert sum(result.calls for result in mixed) < sum(result.calls for result in plain)


def test_an_operation_that_depends_on_what_is_beside_a_row_is_named(model, prompts):
    (name, prompt), neighbour = prompts[0], prompts[2][1]
    model.set_adapter(name)
    assert (first_operation(model, prompt, neighbour) or BRANCH).endswith(BRANCH)
    module = model.hooks.backbone.layers[3].post_attention_layernorm
    handle = module.register_forward_hook(lambda _module, _args, out: out * (1.0 + 0.01 * out.shape[0]))
    try:
        found = first_operation(model, prompt, neighbour)
    finally:
        handle.remove()
    assert found == "model.layers.3.post_attention_layernorm (prompt)"


def test_an_operation_that_depends_on_the_tree_alone_is_named(model, prompts):
    (name, prompt), neighbour = prompts[0], prompts[2][1]
    model.set_adapter(name)
    module = model.hooks.backbone.layers[-1].input_layernorm
    # A pass over a tree has few rows, and one with streams has more than one without.
    handle = module.register_forward_hook(lambda _m, _a, out: out * (1.02 if 4 < out.shape[1] < 30 else 1.0))
    try:
        found = first_operation(model, prompt, neighbour)
    finally:
        handle.remove()
    assert found == f"model.layers.{model.hooks.backbone.num_layers - 1}.input_layernorm"


def test_verify_tells_the_operation(model, prompts, monkeypatch, tmp_path):
    monkeypatch.setattr(Decoding, "open", lambda *_: model)
    model.set_adapter("sql")
    rows = [{"prompt": model.decode(ids)} for name, ids in prompts if name == "sql"]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    module = model.hooks.backbone.layers[5].self_attn.o_proj
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 512, 576, generator=generator, dtype=torch.bfloat16)
    handle = module.register_forward_hook(
        lambda _m, _a, out: out + noise[: out.shape[0], : out.shape[1]] * (5.0 if out.shape[1] > 4 else 0.0)
    )
    try:
        done = CliRunner().invoke(
            verify.command, ["adapters/sql", "--data", str(data), "--max-new-tokens", "24", "--json"], obj={}
        )
    finally:
        handle.remove()
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout)["operation"] == "model.layers.5.self_attn.o_proj"
