"""Advice on a run: in the proportions of the runs that were measured, and never what a base cannot hold."""

from types import SimpleNamespace

import pytest

from ssft.streams.config import StreamConfig, layers_of_share
from ssft.training.advice import GOOD_SHARES, advise


@pytest.mark.parametrize(
    ("mode", "layers", "good"),
    [
        ("lossless", 30, 12),
        ("shared", 30, 8),
        ("lossless", 32, 13),
        ("shared", 12, 3),
        ("shared", 2, 1),
        ("shared", 1, 1),
    ],
)
def test_layers_grow_with_the_base(mode, layers, good):
    assert layers_of_share(GOOD_SHARES[mode], layers) == good
    if layers > 1:
        StreamConfig(num_msa_layers=good).check_streams(layers)


def advice(mode="lossless", rows=100, **cost):
    args = SimpleNamespace(
        mode=mode, num_streams=4, num_msa_layers=12, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        world_size=1,
    )  # fmt: skip
    found = advise(args, 8, 30, rows, {"steps": 50, "seconds": 600, **cost})
    return {one.setting: one for one in found}


def test_every_setting_is_told_with_what_the_run_has():
    found = advice()
    assert {key: one.now for key, one in found.items()} == {
        "mode": "lossless",
        "num_streams": 4,
        "num_msa_layers": 12,
        "lora.r": 8,
        "per_device_train_batch_size": 2,
        "max_steps": "50 in 10 min",
    }
    assert found["num_msa_layers"].advised == "12 of 30"
    assert found["max_steps"].advised == "200 at least, in 40 min"
    assert "Here they are 8 times the 100 rows" in found["max_steps"].why


def test_a_shared_lora_is_told_what_it_costs():
    found = advice("shared")
    assert "cost some right answers" in found["mode"].why
    assert found["lora.r"].advised == "16, or lossless"
    assert found["num_msa_layers"].advised == "8 of 30"
