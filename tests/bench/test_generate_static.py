"""The static cache of transformers gives plain's text, compiles once, and says where it cannot compile."""

from types import SimpleNamespace

import pytest
import torch
from built_methods import PROMPT, build, ids, until
from fake_adapted import fake_adapted, random_prompts

from ssft.bench.methods import generate_static
from ssft.errors import ConfigError, GenerationError

pytestmark = pytest.mark.usefixtures("quick_compiler")


def test_static_batches_are_filled_up_and_nothing_is_compiled_twice():
    adapted, prompts = fake_adapted(), random_prompts(5)
    method = build(adapted, "generate_static", batch_size=2)
    expected = ids(build(adapted, "plain").run(prompts))
    assert ids(method.run(prompts[:2])) == expected[:2]
    with torch._dynamo.config.patch(error_on_recompile=True):  # other lengths, a smaller batch, another EOS
        assert ids(method.run(prompts)) == expected
        adapted.eos_token_ids = {expected[4][3]}
        assert ids(method.run(prompts[4:])) == [until(expected[4], adapted.eos_token_ids)]


def test_the_copy_that_is_compiled_shares_the_weights_and_leaves_the_hooks_alone():
    adapted = fake_adapted()
    model = adapted.hooks.backbone.model
    method = build(adapted, "generate_static")
    own, shared = (dict(m.named_parameters()) for m in (method.bare, model))
    assert all(own[name] is weight for name, weight in shared.items() if weight.device.type != "meta")
    assert {p.device.type for p in own.values()} == {"cpu"}, "packed weights are none that the compiler knows"
    assert not any(layer._forward_pre_hooks for layer in method.bare.model.layers)
    assert all(layer._forward_pre_hooks for layer in model.model.layers)
    assert (method.bare.config._attn_implementation, model.config._attn_implementation) == ("sdpa", "ssft")


def test_static_needs_a_model_that_transformers_compiles():
    adapted = fake_adapted()
    adapted.precision = "4bit"
    adapted.hooks.backbone.model.hf_quantizer = SimpleNamespace(is_compileable=False)
    with pytest.raises(ConfigError, match=r"does not compile a model in 4bit; take --quantization none"):
        build(adapted, "generate_static")


def test_a_step_that_cannot_be_compiled_says_so(monkeypatch):
    def broken(_graph, _inputs, **_):
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(generate_static, "BACKEND", broken)
    with pytest.raises(
        GenerationError, match=r"cannot be compiled here \(.*no compiler found.*\); torch.compile needs"
    ):
        build(fake_adapted(), "generate_static").run([PROMPT])


def test_more_lengths_than_the_compiler_keeps_are_no_silent_fall_back(monkeypatch):
    monkeypatch.setattr(generate_static, "LENGTHS", 1)
    method = build(fake_adapted(), "generate_static", 2)
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        pytest.raises(
            GenerationError, match=r"more lengths of the cache than the compiler keeps \(1\); decode the long"
        ),
    ):
        method.run([[5] * 3, [5] * 4])
