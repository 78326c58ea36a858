"""`ssft bench train` over a lossless recipe: what is saved by taking no gradient below the insertion layer."""

import pytest
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bench.train_step import PLAIN, STREAMING, UNCUT, measure_recipe, step_table
from ssft.recipes.recipe import load_recipe


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_a_lossless_step_takes_less_memory_than_with_gradients_through_all_layers(tmp_path, checkpointing):
    base = save_tiny_base(tmp_path / "base", num_hidden_layers=8)
    data = save_rows(tmp_path / "rows.jsonl", rows(12))
    settings = [
        f"base={base}",
        f"data.train={data}",
        "data.validation_fraction=0.1",
        "dtype=float32",
        "training.num_msa_layers=1",
        "training.num_streams=1",
    ]
    settings += [f"training.activation_checkpointing={checkpointing}", "training.disable_tqdm=true", "lora.r=2"]
    result = measure_recipe(load_recipe("chat_lossless", settings), batches=2, rounds=1, progress=False)
    assert set(result.seconds) == set(result.peak_bytes) == {PLAIN, STREAMING, UNCUT}
    assert 0 < result.peak_bytes[STREAMING] < result.peak_bytes[UNCUT]
    assert "gradients through all layers" in [row[0] for row in step_table(result).rows][2]


def test_where_the_text_trains_nothing_is_cut(tmp_path):
    base, data = save_tiny_base(tmp_path / "base"), save_rows(tmp_path / "rows.jsonl", rows(12))
    settings = [f"base={base}", f"data.train={data}", "dtype=float32", "training.num_msa_layers=1", "lora.r=2"]
    result = measure_recipe(load_recipe("quickstart", settings), batches=1, rounds=1, progress=False)
    assert set(result.seconds) == {PLAIN, STREAMING}
