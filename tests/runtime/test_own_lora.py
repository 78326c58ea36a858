"""Streams with a LoRA of their own over a trained adapter: its text to the last token, and drafts too (format 2)."""

import json
import shutil

import pytest
import torch
from adapter_folders import change_json
from conftest import TINY
from own_lora import LORA, OWN, PROMPTS, TOKENS, change_all, decoded, make_shelf, peft_texts, trained
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import LORA_CONFIG, LORA_WEIGHTS
from ssft.bundle.read import read_bundle
from ssft.card.write import card_text
from ssft.errors import BundleError
from ssft.lora.weights import LoraWeights
from ssft.runs.medusa_folder import lora_sha256
from ssft.runtime.generate import StreamGenerate
from ssft.runtime.loader import load_adapted


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def own(shelf):
    """A bundle of two steps over the plain LoRA."""
    return trained(shelf, shelf.plain, shelf.folder / "own")


@pytest.mark.parametrize("architecture", TINY)
def test_the_text_is_the_adapters_and_drafts_are_accepted_sometimes(tmp_path, architecture):
    shelf = make_shelf(tmp_path, architecture)
    folder = trained(shelf, shelf.plain, tmp_path / "own", "training.max_steps=20")
    before, after = load_file(shelf.plain / LORA), load_file(folder / LORA)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert any(value.abs().max() > 1e-3 for key, value in load_file(folder / OWN).items() if "lora_B" in key)
    expected = peft_texts(shelf.base, shelf.plain)
    assert expected != peft_texts(shelf.base), "the plain LoRA changes nothing, so the test shows nothing"
    outputs = decoded(shelf.base, folder)
    assert [output.token_ids for output in outputs] == expected
    accepted = sum(sum(output.accepted) for output in outputs)
    assert 0 < accepted < len(PROMPTS) * TOKENS
    # Plain peft loads the folder as what it was.
    assert peft_texts(shelf.base, folder) == expected


@pytest.mark.parametrize("draft", ["none", "some", "all"])
def test_the_streams_lora_changes_drafts_and_never_the_text(shelf, own, tmp_path, draft):
    """The same bundle with its own LoRA blown up, as trained, and with an oracle's tree as wide as the vocabulary."""
    folder = tmp_path / draft
    shutil.copytree(own, folder)
    if draft == "none":
        change_all(folder, OWN, lambda t: t * 0)
        change_json(folder, "ssft_config.json", tree={"kind": "chain", "max_nodes": 2})
        change_all(folder, "streams.safetensors", lambda t: torch.full_like(t, 50.0))
    if draft == "all":
        change_json(folder, "ssft_config.json", tree={"kind": "k_ary", "max_nodes": 98, "top_k": 97, "max_depth": 1})
    outputs = decoded(shelf.base, folder)
    assert [output.token_ids for output in outputs] == peft_texts(shelf.base, shelf.plain)
    calls, tokens = sum(o.calls for o in outputs), len(PROMPTS) * TOKENS
    if draft == "all":
        assert calls <= tokens / 2 + len(PROMPTS)
    if draft == "none":
        assert calls > tokens - 3


def test_merging_keeps_the_streams_own(shelf, own):
    expected = decoded(shelf.base, own)
    merged = decoded(shelf.base, own, merge=True)
    assert [output.token_ids for output in merged] == [output.token_ids for output in expected]
    assert [output.accepted for output in merged] == [output.accepted for output in expected]


def test_counts_card_and_inspection_tell_the_two_apart(shelf, own):
    bundle = read_bundle(own)
    extra = sum(t.numel() for t in load_file(own / OWN).values())
    assert bundle.format_version == 2
    assert bundle.extra_parameters == 3 * 64 + extra
    assert bundle.loras[0].parameters == sum(t.numel() for t in load_file(shelf.plain / LORA).values())
    bundle.release()
    text = card_text(bundle)
    bundle = read_bundle(own)
    start = read_bundle(shelf.plain).weights_sha256[:12]
    assert f"| the LoRA | that of another adapter named plain (weights {start}), kept as it was, in float32 |" in text
    assert "decodes the same greedy text" in text
    assert "| the streams' own LoRA: rank, parameters | 2, " + f"{extra:,} |" in text
    assert "PeftModel.from_pretrained" in text
    weights = LoraWeights.from_bundle(bundle, AutoModelForCausalLM.from_pretrained(shelf.base))
    assert weights.layers.keys() > weights.stream_layers.keys() > set()
    assert weights.nbytes == 4 * (bundle.loras[0].parameters + extra)


def test_medusa_heads_over_it_are_those_of_its_text_s_lora(shelf, own):
    adapted = load_adapted(own, str(shelf.base), dtype="float32")
    files = AdapterFiles(own)
    for name in (LORA_CONFIG, LORA_WEIGHTS):
        files.read(name)
    assert lora_sha256(adapted) == files.sha256


def test_transformers_own_generate_decodes_with_it(shelf, own):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(shelf.base), own).eval()
    alone = load_adapted(own, str(shelf.base), dtype="float32")
    expected = [alone.complete([ids], max_new_tokens=TOKENS, ignore_eos=True)[0] for ids in PROMPTS]
    # A second one on the same model must not add the products twice.
    for generate in [StreamGenerate.from_adapter(model, own) for _ in range(2)]:
        for ids, output in zip(PROMPTS, expected, strict=True):
            found = model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, eos_token_id=None, custom_generate=generate
            )
            assert found[0, len(ids) :].tolist() == output.token_ids
            assert generate.last[0].accepted == output.accepted
    # Outside of such a call the model is peft's own.
    model.generation_config.eos_token_id = None
    plain = model.generate(input_ids=torch.tensor([PROMPTS[0]]), do_sample=False, max_new_tokens=TOKENS)
    assert plain[0, len(PROMPTS[0]) :].tolist() == expected[0].token_ids


# -- damage -----------------------------------------------------------------------------------------------------


def as_format_1(folder):
    change_json(folder, "ssft_config.json", format_version=1)


def as_shared(folder):
    settings = json.loads((folder / "ssft_config.json").read_text())
    change_json(folder, "ssft_config.json", streams={**settings["streams"], "mode": "shared"})


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


DAMAGE = {
    "format 1": (
        as_format_1,
        r"stream_lora_config.json: ssft_config.json has format_version 1, in which streams have no",
    ),
    "mode shared": (as_shared, r"format_version 2 with streams.mode='shared'; .*have the mode 'lossless'"),
    "no weights": (without(OWN), r"stream_lora.safetensors: missing"),
    "no config": (without("stream_lora_config.json"), r"stream_lora_config.json: missing"),
    "streams gone": (without("ssft_config.json", "streams.safetensors"), r"ssft_config.json: missing"),
    "NaN": (lambda folder: change_all(folder, OWN, lambda t: t * float("nan")), r"stream_lora.safetensors: .* NaN"),
    "shape": (
        lambda folder: change_all(folder, OWN, lambda t: t[:, :1].contiguous()),
        r"stream_lora.safetensors: .* has shape",
    ),
    "rank": (
        lambda folder: change_json(folder, "stream_lora_config.json", r=3),
        r"the rank 3 of stream_lora_config.json",
    ),
    "types": (lambda folder: change_json(folder, "stream_lora_config.json", r="2"), r"stream_lora_config.json: r='2'"),
    "no lora": (
        lambda folder: change_json(folder, "stream_lora_config.json", peft_type="LOHA"),
        r"stream_lora_config.json: peft_type is 'LOHA'",
    ),
    "dora": (lambda folder: change_json(folder, "stream_lora_config.json", use_dora=True), r"stream_lora_config.*DoRA"),
    "names": (
        lambda folder: change_json(folder, "stream_lora_config.json", base_model_name_or_path="a\x1b[2J"),
        r"stream_lora_config.json: base_model_name_or_path",
    ),
    "target": (
        lambda folder: change_json(folder, "stream_lora_config.json", target_modules=["q_proj"]),
        r"stream_lora.safetensors: holds a LoRA of .*stream_lora_config.json .* does not target",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_by_its_file(shelf, own, tmp_path, case):
    damage, message = DAMAGE[case]
    shutil.copytree(own, tmp_path / "bundle")
    damage(tmp_path / "bundle")
    with pytest.raises(BundleError, match=message):
        load_adapted(tmp_path / "bundle", str(shelf.base), dtype="float32")
