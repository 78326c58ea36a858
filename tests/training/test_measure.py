"""Tokens per call while streams train: the number is the decoder's, nothing else moves, and a target ends the run."""

import re

import pytest
import torch
from measuring_trainer import HELD_BACK, TREE, make_trainer
from tiny_base import save_tiny_base

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.write import write_bundle
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError
from ssft.runtime.loader import load_adapted
from ssft.training.config import StreamSFTConfig
from ssft.training.measure import MEASURED, NEW_TOKENS, decode_some


def measured(trainer):
    return {entry["step"]: entry[MEASURED] for entry in trainer.state.log_history if MEASURED in entry}


@pytest.mark.parametrize("size", [0, 20], ids=["whole vocabulary", "draft vocabulary"])
@pytest.mark.parametrize("mode", ["shared", "lossless"])
def test_it_is_what_the_finished_adapter_decodes(mode, size, tmp_path):
    base = save_tiny_base(tmp_path / "base")
    model, tokenizer = load_base(base, dtype="float32")
    settings = {"mode": mode, "draft_vocabulary": size, "stream_loss_weight": 1.0}
    trainer = make_trainer(tmp_path, model, max_steps=12, measure_steps=5, **settings)
    trainer.train()
    found = measured(trainer)
    assert list(found) == [5, 10, 12]  # and at the end
    assert (trainer.vocabulary is None) == (size == 0)
    written = {"tree": TREE, "base": base_fingerprint(model, tokenizer, str(base))}
    write_bundle(tmp_path / "adapter", trainer.model, draft_vocabulary=trainer.vocabulary, **written)
    adapted = load_adapted(tmp_path / "adapter", base, dtype="float32", device="cpu")
    prompts = [adapted.encode(row["prompt"]) for row in HELD_BACK[:2]]
    alone = [adapted.complete([prompt], max_new_tokens=NEW_TOKENS)[0] for prompt in prompts]
    assert found[12] == sum(len(x.token_ids) for x in alone) / sum(x.calls for x in alone)
    assert found[12] > 1


@pytest.mark.parametrize("mode", ["shared", "lossless"])
def test_a_run_is_the_same_with_and_without_it(mode, tmp_path):
    def run(**settings):
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path, mode=mode, dropout=0.3, activation_checkpointing=True, **settings)
        trainer.train()
        return trainer

    often, never = run(measure_steps=1), run(measure_steps=0)
    assert list(measured(often)) == [1, 2, 3, 4]
    assert not measured(never)
    for name, value in never.model.state_dict().items():
        assert torch.equal(often.model.state_dict()[name], value), name


@pytest.mark.parametrize("was", [True, False])
def test_the_model_trains_on_as_before(was, tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.train(was)
    decode_some(trainer, [[5, 6, 7]], TREE)
    assert trainer.model.training is was


def test_a_reached_target_ends_the_run(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=300, stream_loss_weight=1.0, stop_at_tokens_per_call=1.5)
    trainer.train()
    (*before, last) = measured(trainer).values()
    assert last >= 1.5
    assert all(value < 1.5 for value in before)
    assert trainer.state.global_step == list(measured(trainer))[-1] < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0}, "no validation row is decoded to see it; set data.validation"),
        ({"measure_steps": 0}, "no validation row is decoded to see it"),
        ({"measure_rows": 0}, "training.measure_rows to 1 or more"),
        ({"stop_at_tokens_per_call": 4.5}, "4.5: drafts are 3 tokens deep, so that a pass yields 4 tokens at most"),
        ({"tree": TreeConfig(max_nodes=2)}, "3: drafts are 1 tokens deep"),
        ({"tree": TreeConfig(max_depth=1)}, "3: drafts are 1 tokens deep"),
    ],
)
def test_a_target_that_no_measurement_can_reach_is_refused(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_trainer(tmp_path, **{"stop_at_tokens_per_call": 3.0, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure_steps": -1}, r"measure_steps=-1, expected a whole number from 0"),
        ({"measure_rows": -1}, r"measure_rows=-1"),
        ({"stop_at_tokens_per_call": 1.0}, r"stop_at_tokens_per_call=1: plain decoding has 1 token per call"),
        ({"stop_at_tokens_per_call": float("nan")}, r"stop_at_tokens_per_call=nan"),
    ],
)
def test_settings_out_of_range(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        StreamSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **settings)


def test_without_validation_rows_there_is_no_measurement(tmp_path):
    trainer = make_trainer(tmp_path, validation=0)
    trainer.train()
    assert not measured(trainer)
