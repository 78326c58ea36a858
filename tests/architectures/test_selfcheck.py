"""Architectures that nobody prepared: a self-check on the model lets them in or says what stands in the way."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import LAYERS, VOCABULARY, random_ids
from oracle import ALL, PROMPTS, TOKENS, TOP_K, Oracle, adapted, decode, generate
from peft import LoraConfig
from tiny_architectures import ARCHITECTURES, PLAIN, randomised, tiny
from tiny_base import save_tiny_base, tiny_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BartConfig, BartForCausalLM

from ssft.base import backbone as backbone_module
from ssft.base.families import TESTED
from ssft.cli.main import cli
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError, UnsupportedArchitectureError
from ssft.runs.lora_settings import check_targets
from ssft.runtime import selfcheck
from ssft.runtime.model import MultiAdapterModel
from ssft.runtime.selfcheck import self_check
from ssft.streams.attention import IMPLEMENTATION
from ssft.streams.plan import StreamPlan

UNPREPARED = ["glm4", "nemotron", "persimmon", "gpt_bigcode", "biogpt", "olmo3"]
CHECKS = ["parts", "logits", "positions", "main stream", "streams", "visibility", "text", "lora"]
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": LAYERS, "pad_token_id": 0}


def unprepared(name, **config):
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**(config or PLAIN))))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_tested_architectures_pass_and_are_left_as_they_were(name):
    model = tiny(name)
    ids, attention = random_ids(1, 9), model.config._attn_implementation
    before = model(input_ids=ids).logits
    report = self_check(model)
    assert report.supported, report.reason
    assert [check.name for check in report.checks] == CHECKS
    assert model.config._attn_implementation == attention
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_the_list_names_what_is_tested():
    assert sorted(TESTED) == sorted({model_type for model_type, _ in ARCHITECTURES.values()})


def test_an_architecture_is_one_line_in_one_file():
    """No file but the list names a model type, and the list has a line for each."""
    texts = {path: path.read_text() for path in Path("ssft").rglob("*.py")}
    named = {
        (path.name, node.value)
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and node.value in TESTED
    }
    assert named == {("families.py", name) for name in TESTED}
    assert len(re.findall(r'^    "\w+": ".*",$', texts[Path("ssft/base/families.py")], re.MULTILINE)) == len(TESTED)


@pytest.mark.parametrize("name", UNPREPARED)
def test_an_unprepared_architecture_that_passes_decodes_identically(name):
    assert name not in TESTED
    model = unprepared(name)
    assert self_check(model).reason is None
    subject = adapted(model)
    for drafts in ("never", "sometimes", "always"):
        results = decode(Oracle(subject, TreeConfig("best_first", 16, TOP_K), drafts, ALL), ALL)
        assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("bloom", {**SMALL, "n_head": 4}, "max_position_embeddings"),
        ("falcon", {**SMALL, "num_attention_heads": 4, "alibi": True}, "layer 0 is given 'alibi'"),
        ("mamba", {**SMALL, "max_position_embeddings": 64}, r"writes 0 times into the cache of keys and values"),
        ("recurrent_gemma", {**PLAIN, "lru_width": 64}, "writes 0 times into the cache of keys and values"),
        ("gpt_oss", {**PLAIN, "num_local_experts": 4, "head_dim": 16}, "the tensor 's_aux'"),
        ("trocr", PLAIN, "failed its self-check, positions: a row moved one place on"),
        ("qwen3_next", {**PLAIN, "num_experts": 4}, "no stream support"),
    ],
)
def test_what_no_stream_can_enter_is_refused_with_the_reason(name, config, reason):
    model = unprepared(name, **config)
    report = self_check(model)
    assert not report.supported
    with pytest.raises(UnsupportedArchitectureError, match=rf"architecture '{name}'.*{reason}"):
        MultiAdapterModel(model, tiny_tokenizer())


def test_a_router_of_experts_gets_no_lora(tmp_path):
    model = unprepared("phimoe", **{**PLAIN, "vocab_size": len(tiny_tokenizer())})
    assert "none fits router: set lora.target_modules" in self_check(model).checks[-1].detail
    subject = adapted(model, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    results = decode(Oracle(subject, TreeConfig("best_first", 16, TOP_K), "sometimes", ALL), ALL)
    assert [result.token_ids for result in results] == [text[:TOKENS] for text in subject.texts]
    bare = unprepared("phimoe", **{**PLAIN, "vocab_size": len(tiny_tokenizer())})
    text = generate(bare, PROMPTS[0], TOKENS)
    packed = MultiAdapterModel(bare, tiny_tokenizer())
    (result,) = packed.generate(PROMPTS[:1], max_new_tokens=TOKENS, ignore_eos=True, return_dict=True)
    assert result["token_ids"] == text
    with pytest.raises(ConfigError, match="router is of type PhimoeTopKRouter, and only linear modules can decode"):
        check_targets(LoraConfig(target_modules=["q_proj", "router"]), packed.model)


def test_an_encoder_decoder_is_refused():
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    model = BartForCausalLM(BartConfig(vocab_size=VOCABULARY, d_model=32, is_encoder_decoder=True, **sizes))
    model.config.is_encoder_decoder = True
    assert "it is an encoder-decoder" in self_check(model).reason


# --- a check that finds nothing wrong anywhere is none ---


def refused(monkeypatch, name="glm4"):
    with pytest.raises(UnsupportedArchitectureError) as caught:
        MultiAdapterModel(unprepared(name), tiny_tokenizer())
    return str(caught.value)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(selfcheck, "_PASSED", set())


def test_a_missed_scaling_of_the_logits_is_found(monkeypatch):
    plain = backbone_module.Backbone.logits
    monkeypatch.setattr(backbone_module.Backbone, "logits", lambda *args: plain(*args) * 0.5)
    assert "failed its self-check, logits: " in refused(monkeypatch)


def test_a_main_row_that_sees_a_stream_is_found(monkeypatch):
    monkeypatch.setattr("ssft.streams.attention._main", lambda m, q, k, v, *_, **__: q.transpose(1, 2) * 0)
    assert "failed its self-check, main stream: " in refused(monkeypatch)


def test_a_stream_in_a_wrong_place_is_found(monkeypatch):
    plain = StreamPlan.positions
    monkeypatch.setattr(StreamPlan, "positions", lambda *args: plain(*args) + 3)
    assert "failed its self-check, streams: " in refused(monkeypatch, "olmo3")


def test_a_wrong_mask_of_trees_is_found(monkeypatch):
    monkeypatch.setattr("ssft.decoding.masks.ancestor_mask", lambda tree: np.ones((len(tree), len(tree)), dtype=bool))
    assert "failed its self-check, text: " in refused(monkeypatch)


def test_a_model_that_a_lora_cannot_change_is_found(monkeypatch):
    monkeypatch.setattr(selfcheck, "is_linear", lambda module: False)
    assert "failed its self-check, lora: its layers have no linear modules" in refused(monkeypatch)


def test_what_passed_once_is_not_checked_again(monkeypatch):
    MultiAdapterModel(unprepared("glm4"), tiny_tokenizer())
    monkeypatch.setattr(selfcheck, "self_check", None)
    assert MultiAdapterModel(unprepared("glm4"), tiny_tokenizer()).model.config._attn_implementation == IMPLEMENTATION
    with pytest.raises(TypeError):
        MultiAdapterModel(unprepared("glm4", **{**PLAIN, "num_hidden_layers": 3}), tiny_tokenizer())


# --- the commands and the documents ---


def test_bases_check_shows_every_check(tmp_path):
    base = save_tiny_base(tmp_path / "base")
    result = CliRunner().invoke(cli, ["bases", "check", str(base), "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["supported"], found["reason"]) == (0, True, None)
    assert [check["name"] for check in found["checks"]] == CHECKS
    assert all(check["ok"] and check["detail"] for check in found["checks"])
    assert f"{base} is supported" in CliRunner().invoke(cli, ["bases", "check", str(base)]).stdout


def test_bases_check_exits_1_for_a_base_that_is_not_supported(tmp_path):
    base = save_tiny_base(tmp_path / "base")
    unprepared("mamba", **{**SMALL, "max_position_embeddings": 64, "vocab_size": 97}).save_pretrained(base)
    result = CliRunner().invoke(cli, ["bases", "check", str(base), "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["supported"]) == (1, False)
    assert found["reason"] == f"{found['checks'][-1]['name']}: {found['checks'][-1]['detail']}"
    shown = CliRunner().invoke(cli, ["bases", "check", str(base)])
    assert (shown.exit_code, "is not supported: parts: " in " ".join(shown.stdout.split())) == (1, True)


def test_bases_families_and_the_readme_name_what_is_tested():
    found = json.loads(CliRunner().invoke(cli, ["bases", "families", "--json"]).stdout)["families"]
    assert [family["model_type"] for family in found] == sorted(TESTED)
    *most, last = sorted(TESTED)
    readme = " ".join(Path("README.md").read_text().split())
    assert f"Tested on tiny random models are {', '.join(most)} and {last}." in readme
