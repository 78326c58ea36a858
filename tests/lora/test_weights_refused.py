"""What `LoraWeights` cannot mean as peft means it is refused, with the file, the value and the reason."""

import warnings
from dataclasses import fields

import pytest
import torch
from adapter_folders import change_config, change_tensors, check_equals_peft, fitted, peft_folder
from conftest import tiny_llama
from peft import LoraConfig

from ssft.bundle.lora_config import NO_LOW_RANK_SUM
from ssft.bundle.read import read_bundle
from ssft.errors import BundleError
from ssft.lora.weights import LoraWeights

MODULE = "model.layers.1.self_attn.q_proj"
KEY = f"base_model.model.{MODULE}"


REFUSED_CONFIGS = {
    **{key: ({key: value}, key) for key, value in dict.fromkeys(NO_LOW_RANK_SUM, True).items()},
    "empty sub-configuration": ({"kasa_config": {}}, r"kasa_config=\{\}"),
    "bias": ({"bias": "lora_only"}, "bias='lora_only'"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'.*a base whose weights it changed"),
    "pissa_niter_4": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    "corda": ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "path_initial_model_for_weight_conversion"),
    "a start of the future": ({"init_lora_weights": "new"}, "init_lora_weights='new'"),
    "no such module pattern": ({"layers_pattern": "layers"}, "`layers_to_transform` must also be specified"),
}


@pytest.mark.parametrize("name", sorted(REFUSED_CONFIGS))
def test_what_is_no_low_rank_sum_is_refused(folder, name):
    changes, message = REFUSED_CONFIGS[name]
    change_config(folder, **changes)
    with pytest.raises(BundleError, match=rf"adapter_config\.json: .*{message}"):
        fitted(folder, tiny_llama())


def test_every_variant_that_peft_knows_is_in_the_list():
    variants = {f.name for f in fields(LoraConfig) if f.metadata.get("is_lora_variant")}
    assert "use_dora" in variants
    assert variants <= NO_LOW_RANK_SUM.keys()


def test_what_changes_no_arithmetic_is_ignored(folder):
    harmless = {"lora_dropout": 0.3, "fan_in_fan_out": True, "ensure_weight_tying": True, "a_field_of_the_future": 1}
    change_config(folder, **harmless, loftq_config={}, modules_to_save=[], bias="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft names the field that it does not know
        check_equals_peft(folder, tiny_llama)


REFUSED_FOLDERS = {
    "DoRA": ({"use_dora": True}, "use_dora=True"),
    "bias of B": ({"lora_bias": True}, "lora_bias=True"),
    "saved module": ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
    "tokens": ({"trainable_token_indices": [3, 4]}, r"trainable_token_indices=\[3, 4\]"),
    "parameters": (
        {"target_modules": ["q_proj"], "target_parameters": ["up_proj.weight"]},
        "target_parameters=",
    ),
    "replicated layers": ({"layer_replication": [[0, 3], [1, 4]]}, "layer_replication="),
    "invocation": ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens=\[5\]"),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, "embedding_[AB] .*of linear layers only"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
}


@pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")  # of lora_bias over layers without bias
@pytest.mark.parametrize("name", sorted(REFUSED_FOLDERS))
def test_what_peft_writes_beyond_a_low_rank_sum_is_refused(tmp_path, name):
    changes, message = REFUSED_FOLDERS[name]
    folder = peft_folder(tmp_path / "adapter", tiny_llama(), **changes)
    with pytest.raises(BundleError, match=message):
        LoraWeights.from_bundle(read_bundle(folder), tiny_llama())


def without(part):
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


def with_extra(key, shape_a=(4, 64), shape_b=(64, 4)):
    extra = {f"{key}.lora_A.weight": torch.ones(shape_a), f"{key}.lora_B.weight": torch.ones(shape_b)}
    return lambda tensors: {**tensors, **extra}


def cut(key):
    return lambda tensors: {k: v[..., :3].contiguous() if k == key else v for k, v in tensors.items()}


REFUSED_TENSORS = {
    "A alone": (without(f"{KEY}.lora_B"), f"{MODULE} has lora_A alone"),
    "B alone": (without(f"{KEY}.lora_A"), f"{MODULE} has lora_B alone"),
    "B of another rank": (cut(f"{KEY}.lora_B.weight"), r"lora_B\.weight has shape \(64, 3\).*needs \(64, 4\)"),
    "A of another width": (cut(f"{KEY}.lora_A.weight"), r"lora_A\.weight has shape \(4, 3\).*needs \(4, 64\)"),
    "a targeted module without": (without(KEY), f"has no LoRA of {MODULE}, which adapter_config.json targets"),
    "a module that is not targeted": (
        with_extra("base_model.model.lm_head", shape_b=(61, 4)),
        "holds a LoRA of lm_head, which adapter_config.json .* does not target; peft would ignore it",
    ),
    "no linear layer": (
        with_extra("base_model.model.model.norm"),
        r"a LoRA of model\.norm, a LlamaRMSNorm; only linear",
    ),
    "no module": (with_extra("base_model.model.model.layers.9.x"), "which the base does not have"),
    "magnitude": (
        lambda t: {**t, f"{KEY}.lora_magnitude_vector": torch.ones(64)},
        "lora_magnitude_vector is no weight of a LoRA that decodes here: expected lora_A and lora_B of linear",
    ),
    "bias of B": (
        lambda t: {**t, f"{KEY}.lora_B.bias": torch.ones(64)},
        r"lora_B\.bias is no weight.*of linear layers only",
    ),
    "anything else": (
        lambda t: {**t, f"{KEY}.weight": torch.ones(64)},
        "expected lora_A and lora_B of linear layers only",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED_TENSORS))
def test_tensors_that_do_not_fit_are_named(folder, name):
    change, message = REFUSED_TENSORS[name]
    change_tensors(folder, change)
    with pytest.raises(BundleError, match=rf"adapter_model\.safetensors: .*{message}"):
        fitted(folder, tiny_llama())


def test_the_rank_of_a_pattern_is_the_one_that_counts(folder):
    change_config(folder, rank_pattern={r"layers\.1\..*q_proj": 2})
    with pytest.raises(
        BundleError, match=r"q_proj\.lora_A\.weight has shape \(4, 64\).* needs \(2, 64\) at the rank 2"
    ):
        fitted(folder, tiny_llama())


def test_a_folder_without_any_lora_is_refused(folder):
    change_tensors(folder, lambda tensors: {})
    change_config(folder, target_modules=[])
    with pytest.raises(BundleError, match="holds no LoRA at all"):
        fitted(folder, tiny_llama())
