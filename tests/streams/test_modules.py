"""The parameters of the streams: how many there are, how they start, and that PEFT saves and loads them."""

import math

import pytest
import torch
from conftest import TINY, tiny_llama, with_adapter
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from ssft.errors import ConfigError
from ssft.streams.config import MAX_STREAMS, StreamConfig
from ssft.streams.modules import CONTAINER, StreamModules, attach_streams, streams_of
from ssft.streams.plan import StreamPlan

FULL = StreamConfig(num_streams=3, num_msa_layers=2, projection_rank=2)


# --- counts and shapes ---


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"num_streams": 4}, 2304),
        ({"num_streams": 1}, 576),
        ({"num_streams": 4, "projection_rank": 8}, 2304 + 2 * 8 * 576),
        ({"num_streams": 4, "identifier": "rotation"}, 0),
        ({"num_streams": 4, "identifier": "rotation", "projection_rank": 2}, 2 * 2 * 576),
    ],
)
def test_count_of_extra_parameters(changes, count):
    assert StreamModules(StreamConfig(**changes), 576).count() == count


def test_insertion_adds_gamma_rows_beside_each_source():
    modules = StreamModules(FULL, 8)
    main = torch.randn(2, 5, 8)
    streams = modules.insert(main, 3).unflatten(1, (5, 3))
    for j in range(3):
        torch.testing.assert_close(streams[:, :, j], main + modules.stream_embeddings[j])


def test_first_streams_alone_are_the_same_rows():
    modules = StreamModules(FULL, 8)
    main = torch.randn(1, 2, 8)
    two, three = modules.insert(main, 2).unflatten(1, (2, 2)), modules.insert(main, 3).unflatten(1, (2, 3))
    assert torch.equal(two, three[:, :, :2])


# --- f_η ---


def test_projection_starts_as_the_identity():
    torch.manual_seed(0)
    modules = StreamModules(StreamConfig(num_streams=2, projection_rank=4, identifier="rotation"), 16)
    main = torch.randn(1, 3, 16)
    assert torch.equal(modules.insert(main, 2).unflatten(1, (3, 2))[:, :, 1], main)
    assert modules.projection_down.abs().min() > 0  # not a dead start: the other half has values to learn from


def test_projection_is_residual_and_low_rank():
    modules = StreamModules(StreamConfig(num_streams=1, projection_rank=2, identifier="rotation"), 16)
    torch.nn.init.normal_(modules.projection_up)
    main = torch.randn(1, 40, 16)
    change = (modules.insert(main, 1) - main)[0]
    torch.testing.assert_close(change, main[0] @ (modules.projection_up @ modules.projection_down).T)
    assert torch.linalg.matrix_rank(change, atol=1e-3) == 2


def test_parameters_stay_float32_beside_a_half_precision_state():
    modules = StreamModules(FULL, 8)
    streams = modules.insert(torch.randn(1, 2, 8, dtype=torch.bfloat16), 3)
    assert streams.dtype == torch.bfloat16
    assert {p.dtype for p in modules.parameters()} == {torch.float32}


# --- value rotation ---


def test_values_turn_in_proportion_to_the_stream():
    modules = StreamModules(StreamConfig(num_streams=3, identifier="rotation"), 8)
    values = torch.randn(1, 2, 6, 4)  # two sources, three streams each
    turned = modules.rotate_values(values, 3)
    for row in range(6):
        angle = (row % 3 + 1) * math.pi / 6
        before = torch.complex(values[0, :, row, :2], values[0, :, row, 2:])
        after = torch.complex(turned[0, :, row, :2], turned[0, :, row, 2:])
        torch.testing.assert_close(after, before * torch.polar(torch.tensor(1.0), torch.tensor(angle)))


def test_first_streams_alone_turn_by_the_same_angles():
    modules = StreamModules(StreamConfig(num_streams=3, identifier="rotation"), 8)
    values = torch.randn(1, 1, 3, 4)
    assert torch.equal(modules.rotate_values(values[:, :, :2], 2), modules.rotate_values(values, 3)[:, :, :2])


@pytest.mark.parametrize("identifier", ["embedding", "rotation"])
@pytest.mark.parametrize("slots", [None, [[3, 4], [5, 6], [0, 1]]])
def test_a_plan_turns_the_values_of_streams_alone(identifier, slots):
    modules = StreamModules(StreamConfig(num_streams=2, identifier=identifier), 8)
    plan = StreamPlan(modules, torch.zeros(3, 1, dtype=torch.long), 2, num_main=5)
    plan.slots = None if slots is None else torch.tensor(slots)
    values = torch.randn(3, 2, 7, 4)
    turned = plan.with_rotated_values(values)
    for row in range(3):
        of_streams = [5, 6] if slots is None else slots[row]
        expected = values[row].clone()
        if identifier == "rotation":
            expected[:, of_streams] = modules.rotate_values(values[row : row + 1, :, of_streams], 2)[0]
            assert not torch.equal(expected, values[row])
        assert torch.equal(turned[row], expected)


# --- on a PEFT model ---


def named(model):
    return dict(streams_of(model).named_parameters())


def test_streams_are_trainable_parameters_of_the_peft_model(architecture):
    model = with_adapter(TINY[architecture](), FULL)
    names = [n for n, p in model.named_parameters() if CONTAINER in n and p.requires_grad]
    assert len(names) == 3


def test_a_model_without_streams_has_none():
    model = with_adapter(tiny_llama())
    assert streams_of(model) is None
    attach_streams(model, FULL)
    assert streams_of(model, "other") is None


def test_adapters_have_streams_of_their_own():
    model = with_adapter(tiny_llama(), FULL)
    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear"))
    other = attach_streams(model, StreamConfig(num_streams=2, num_msa_layers=1), "other")
    assert streams_of(model, "other") is other
    assert streams_of(model).config.num_streams == 3


def test_state_dict_round_trip_carries_the_streams():
    source = with_adapter(tiny_llama(), FULL)
    target = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    attach_streams(target, FULL)
    before = {n: p.clone() for n, p in named(target).items()}
    set_peft_model_state_dict(target, get_peft_model_state_dict(source))
    for name, parameter in named(source).items():
        assert not torch.equal(before[name], parameter)
        assert torch.equal(named(target)[name], parameter)


def test_save_pretrained_writes_the_streams_and_loading_restores_them(tmp_path):
    source = with_adapter(tiny_llama(), FULL)
    source.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    names = sorted(n.rsplit(".", 1)[-1] for n in saved if CONTAINER in n)
    assert names == ["projection_down", "projection_up", "stream_embeddings"]
    target = with_adapter(tiny_llama(), FULL, seed=7)
    assert not torch.equal(streams_of(target).stream_embeddings, streams_of(source).stream_embeddings)
    target.load_adapter(tmp_path, "default")
    for name, parameter in named(source).items():
        assert torch.equal(named(target)[name], parameter)


# --- configuration ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_streams": 0}, f"num_streams=0: γ must lie between 1 and {MAX_STREAMS}"),
        ({"num_streams": MAX_STREAMS + 1}, f"num_streams={MAX_STREAMS + 1}: γ must lie between"),
        ({"identifier": "name"}, "identifier='name': expected one of embedding, rotation"),
        ({"projection_rank": -1}, "projection_rank=-1: η is 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        StreamConfig(**changes).check_streams()


def test_config_round_trips_through_its_dict():
    assert StreamConfig(**FULL.stream_dict()) == FULL
