"""Settings that the recipe's method does not read, or that it refuses, are named."""

import typing

import pytest

from ssft.errors import ConfigError
from ssft.recipes.recipe import SECTIONS_READ, Recipe, load_recipe
from ssft.runs.methods import method_names


def test_every_method_is_known_everywhere():
    named = typing.get_args(Recipe.__annotations__["method"])
    assert set(SECTIONS_READ) == set(named) == set(method_names())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["medusa.num_heads=2"],
            r"medusa\.num_heads has no effect with method=streams, which trains a LoRA with speculative streams; leave",
        ),
        (["draft.layers=first"], r"draft\.layers has no effect with method=streams"),
        (
            ["method=draft", "save_dtype=float16"],
            r"save_dtype=float16 has no effect with method=draft",
        ),
        (["method=lora", "draft.num_layers=2"], r"draft\.num_layers has no effect with method=lora"),
        (
            ["method=draft"],
            r"lora\.\w+ has no effect with method=draft, which trains a small model",
        ),
        (["num_layers=2"], r"num_layers is ambiguous; write medusa\.num_layers or draft\.num_layers"),
    ],
)
def test_settings_that_the_method_does_not_read(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("draft", ["training.num_streams=2"], r"training\.num_streams has no effect with method=draft"),
        ("draft", ["stream_loss_weight=2"], r"training\.stream_loss_weight has no effect with method=draft"),
        ("draft", ["tree.top_k=2"], r"tree\.top_k has no effect with method=draft"),
        ("draft", ["quantization=4bit"], "method=draft with quantization=4bit: a draft is trained in full"),
        (
            "draft",
            ["adapter=x"],
            "adapter=x has no effect with method=draft, which trains a small model of some of the bare",
        ),
        ("draft", ["draft.num_layers=0"], r"draft\.num_layers=0: a draft has at least one layer"),
        ("medusa", ["lora.r=4"], r"lora\.r has no effect with method=medusa"),
        ("medusa", ["num_heads=0"], r"medusa\.num_heads=0"),
        ("medusa", ["adapter="], "method=medusa trains heads over an adapter, and none is named; set adapter=FOLDER"),
    ],
)
def test_settings_that_a_peer_refuses(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(f"peers/{name}_sql", overrides)
