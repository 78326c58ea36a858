"""`StreamGenerate(fast=True)`: fast products during passes, on a model whose weights stay the user's own."""

import copy

import pytest
import torch
from peft_user import TOKENS, PeftUser

from ssft.base.kernels.linears import kernel_names
from ssft.base.kernels.products import Packed, can_pack
from ssft.decoding.step import Step
from ssft.errors import ConfigError
from ssft.runtime.generate import StreamGenerate

needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="oneDNN packs no float32 weights on this CPU")


@pytest.fixture
def user(tmp_path, architecture):
    return fast_user(tmp_path, architecture)


@pytest.fixture
def llama(tmp_path):
    return fast_user(tmp_path, "llama")


def fast_user(folder, architecture):
    user = PeftUser(folder, architecture)
    user.generate = StreamGenerate.from_adapter(user.model, user.bundle, fast=True)
    return user


def held(model):
    """Every parameter as an object, where its numbers lie, and a copy of them."""
    return [(name, p, p.data_ptr(), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()]


def assert_as_before(model, before):
    assert [name for name, *_ in before] == [name for name, _ in model.named_parameters()]
    for (_, old, place, trained, numbers), new in zip(before, model.parameters(), strict=True):
        assert new is old
        assert (new.data_ptr(), new.requires_grad) == (place, trained)
        assert torch.equal(new, numbers)
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_same_ids_from_fewer_passes_and_a_model_as_it_was(user):
    before, state = held(user.model), copy.deepcopy(user.model.state_dict())
    for rows in ([0, 1, 2], [0]):
        reference, streamed = user.both(rows)
        assert torch.equal(streamed, reference)
        calls, tokens = user.calls()
        assert calls < tokens
        assert_as_before(user.model, before)
    after = user.model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], state[name]) for name in state)


@needs_packing
def test_passes_compute_with_packed_weights(llama, monkeypatch):
    names, real = [], Step.trees

    def trees(self, *given):
        names.append(kernel_names(self.backbone.model))
        return real(self, *given)

    monkeypatch.setattr(Step, "trees", trees)
    llama.both([0])
    assert all("Packed" in found for found in names)
    assert "Packed" not in kernel_names(llama.model)
    names.clear()
    llama.generate = StreamGenerate.from_adapter(llama.model, llama.bundle)
    llama.both([0])
    assert not any("Packed" in found for found in names)


@pytest.mark.parametrize("where", ["trees", "prompts"])
def test_an_error_in_a_pass_leaves_the_model_as_it_was(llama, monkeypatch, where):
    before = held(llama.model)

    def broken(*_):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(Step, where, broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            llama.both([0])
    assert_as_before(llama.model, before)
    reference, streamed = llama.both([0])
    assert torch.equal(streamed, reference)


def test_an_error_while_weights_are_copied_leaves_the_model_as_it_was(llama, monkeypatch):
    before = held(llama.model)

    def broken(self, modules):
        raise RuntimeError("no memory")

    for kind in ("Packed", "Dense"):
        monkeypatch.setattr(f"ssft.base.kernels.products.{kind}.__init__", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        llama.both([0])
    assert_as_before(llama.model, before)


@pytest.mark.parametrize("part", ["lora", "all"])
def test_training_afterwards_is_what_it_is_without_and_the_next_text_follows(llama, part):
    """A step of the LoRA, or of all weights, which have then to be copied anew."""
    inputs = llama.inputs([0])
    llama.both([0])
    models = (llama.model, llama.plain)
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part == "all" or "lora_" in name)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    pairs = list(zip(*(model.named_parameters() for model in models), strict=True))
    assert sum(ours.grad is not None for (_, ours), _ in pairs) > 10
    assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in pairs)
    reference, streamed = llama.both([0, 1])
    assert torch.equal(streamed, reference)


@needs_packing
def test_weights_are_copied_once_and_again_where_they_changed(llama, monkeypatch):
    made, real = [], Packed.__init__

    def init(self, modules):
        made.append(modules)
        real(self, modules)

    monkeypatch.setattr(Packed, "__init__", init)
    before = llama.both([0])[1]
    groups = len(made)
    assert groups
    llama.both([0])
    assert len(made) == groups
    for model in (llama.model, llama.plain):  # as peft merges: torch counts no change
        for name, parameter in model.named_parameters():
            if "proj" in name and "lora_" not in name:
                parameter.data += 0.05 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(len(name))
                )
    reference, streamed = llama.both([0])
    assert len(made) == 2 * groups
    assert torch.equal(streamed, reference)
    assert not torch.equal(streamed, before)


def test_two_generators_of_one_model_take_each_others_products_off(llama):
    before = held(llama.model)
    other = StreamGenerate.from_adapter(llama.model, llama.bundle, fast=True)
    first = llama.both([0])[1]
    llama.generate = other
    assert torch.equal(llama.both([0])[1], first)
    assert first.shape[1] == llama.inputs([0])["input_ids"].shape[1] + TOKENS
    assert_as_before(llama.model, before)


def test_fast_is_yes_or_no(llama):
    with pytest.raises(ConfigError, match=r"fast='yes', expected"):
        StreamGenerate.from_adapter(llama.model, llama.bundle, fast="yes")
