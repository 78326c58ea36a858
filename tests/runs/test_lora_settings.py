"""A LoRA that decoding could not hold, or that sits nowhere, is refused before a run begins."""

import pytest
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bundle import lora_config
from ssft.errors import ConfigError
from ssft.recipes.recipe import load_recipe
from ssft.runs import methods
from ssft.runs.prepare import prepare
from ssft.runs.train import train
from ssft.runtime.loader import load_adapted

SETTINGS = [
    "dtype=float32", "lora.r=4", "training.num_streams=2", "training.num_msa_layers=1", "training.max_steps=1",
    "training.per_device_train_batch_size=2", "training.disable_tqdm=true", "data.validation_fraction=0.25",
]  # fmt: skip
LINEAR = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
CANNOT_DECODE = {
    "use_dora=true": "DoRA rescales",
    "bias=all": "biases of the base are replaced",
    "bias=lora_only": "biases of the base are replaced",
    "lora_bias=true": "B has a trained bias",
    "modules_to_save=[lm_head]": "whole modules of the base are replaced",
    "trainable_token_indices=[1, 2]": "rows of the embedding are replaced",
    "layer_replication=[[0, 2], [1, 4]]": "layers of the base are repeated",
    "target_parameters=[q_proj.weight]": "parameters are adapted that belong to no linear layer",
    "alora_invocation_tokens=[5]": "aLoRA acts only after",
    "use_qalora=true": "the input is pooled before A",
    "init_lora_weights=pissa": "over a base whose weights it changed",
    "init_lora_weights=pissa_niter_4": "over a base whose weights it changed",
    "init_lora_weights=olora": "over a base whose weights it changed",
    "init_lora_weights=corda": "over a base whose weights it changed",
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    save_tiny_base(folder / "base")
    save_rows(folder / "train.jsonl", rows(8))
    return folder


def prepared(shelf, *extra, output=None):
    files = [f"base={shelf / 'base'}", f"data.train={shelf / 'train.jsonl'}"]
    return prepare(load_recipe("quickstart", [*files, *SETTINGS, *extra]), output or shelf / "out", "cpu")


@pytest.mark.parametrize("method", ["streams", "lora"])
@pytest.mark.parametrize("setting", CANNOT_DECODE)
def test_what_cannot_decode_is_refused_before_the_base_is_loaded(shelf, monkeypatch, setting, method):
    monkeypatch.setattr(methods, "load_base", None)
    key = setting.partition("=")[0]
    message = rf"lora\.{key}=.*could not hold what is trained: .*{CANNOT_DECODE[setting]}.*; leave lora\.{key} out"
    with pytest.raises(ConfigError, match=message):
        prepared(shelf, f"method={method}", f"lora.{setting}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("init_lora_weights=eva", r"lora\.init_lora_weights='eva': .*ssft does not make; leave"),
        ("rank_pattern={q_proj: 0}", r"lora: rank_pattern\['q_proj'\]=0, expected a positive integer"),
        ("target_modules='('", r"lora: target_modules='\(' is no regular expression"),
    ],
)
def test_what_no_reader_would_take_is_refused_before_the_base_is_loaded(shelf, monkeypatch, setting, message):
    monkeypatch.setattr(methods, "load_base", None)
    with pytest.raises(ConfigError, match=message):
        prepared(shelf, f"lora.{setting}")


@pytest.mark.parametrize("method", ["streams", "lora"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["target_modules=[q_proj, v_prj]"],
            r"lora\.target_modules: the base has no module 'v_prj'; did you mean",
        ),
        (["target_modules=[c_attn]"], rf"the base has no module 'c_attn'; the base's linear modules are {LINEAR}"),
        (["target_modules=q_proj"], rf"'q_proj': a string is an expression for whole .* in a list, .*; .*{LINEAR}"),
        (["target_modules=[]"], rf"lora\.target_modules=\[\]: no module is left for a LoRA; .*{LINEAR}"),
        (
            ["target_modules=[q_proj]", "layers_to_transform=[77]"],
            r"target_modules=\['q_proj'\]: no module is left for a LoRA with lora\.layers_to_transform=\[77\]; ",
        ),
        (
            ["target_modules=[q_proj, embed_tokens]"],
            rf"model\.embed_tokens is of type Embedding, and only linear modules can decode .*; .*{LINEAR}",
        ),
        (["target_modules=[q_proj, lm_head]"], r"lm_head is the base's head, .*; a LoRA there would never learn; "),
        (["target_modules='(.+)+x'"], r"lora: target_modules='\(\.\+\)\+x': matching .* found no end within 1 s"),
    ],
)
def test_targets_that_no_lora_can_have_are_refused(shelf, method, settings, message, monkeypatch):
    monkeypatch.setattr(lora_config, "_PATIENCE", 1.0)
    with pytest.raises(ConfigError, match=message):
        prepared(shelf, f"method={method}", *(f"lora.{setting}" for setting in settings))


@pytest.mark.parametrize(
    "setting",
    [
        "init_lora_weights=orthogonal",
        "use_rslora=true",
        "alpha_pattern={q_proj: 3}",
        "target_modules='.*(q|v)_proj'",
        "target_modules=[3.self_attn.q_proj]",
    ],
)
def test_what_is_not_refused_decodes(shelf, tmp_path, setting):
    output = train(prepared(shelf, f"lora.{setting}", output=tmp_path / "out"), tmp_path / "out").path
    adapted = load_adapted(output, str(shelf / "base"), dtype="float32", device="cpu")
    done = adapted.complete([adapted.encode({"prompt": "say 3:"})], max_new_tokens=4, ignore_eos=True)
    assert len(done[0].token_ids) == 4
