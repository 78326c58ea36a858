"""A bad adapter is a named error and nothing else: the running model says the same before and after."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from shelf import shared_shelf

from ssft.adapters.multi import MultiAdapterModel
from ssft.errors import BundleError

PROMPTS = [[5, 9, 40, 8], [7, 7, 3]]


@pytest.fixture(scope="module")
def shelf():
    return shared_shelf("llama")


@pytest.fixture(scope="module")
def model(shelf):
    model = MultiAdapterModel.from_pretrained(shelf.base, dtype="float32", device_map="cpu")
    model.load_adapter(shelf.paths["deep"])
    model.load_adapter(shelf.paths["many"])
    model.set_adapter("deep")
    return model


def truncate(name):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) * 2 // 3])

    return damage


def tensors(name, change):
    def damage(folder):
        held = load_file(folder / name)
        save_file(change(held), folder / name)

    return damage


def settings(name, **changes):
    def damage(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def first(held, function):
    key = sorted(held)[0]
    return {**held, key: function(held[key])}


def swapped_shapes(held):
    """Two tensors change places: every number is there, the shapes are another module's."""
    keys = sorted(held)
    up = next(k for k in keys if "down_proj.lora_B" in k)
    down = next(k for k in keys if "q_proj.lora_A" in k)
    return {**held, up: held[down].clone(), down: held[up].clone()}


def wrong_base(folder):
    path = folder / "ssft_config.json"
    held = json.loads(path.read_text())
    held["base"]["config_sha256"] = "0" * 64
    path.write_text(json.dumps(held))


def climbing_link(folder):
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / "adapter_model.safetensors", outside)
    (folder / "adapter_model.safetensors").symlink_to("../outside.safetensors")


LORA, STREAMS = "adapter_model.safetensors", "streams.safetensors"
DAMAGE = {
    "truncated LoRA": (truncate(LORA), "adapter_model.safetensors.*truncated"),
    "truncated streams": (truncate(STREAMS), "streams.safetensors.*truncated"),
    "truncated config": (truncate("ssft_config.json"), "ssft_config.json.*not readable as JSON"),
    "swapped shapes": (tensors(LORA, swapped_shapes), r"has shape \(\d+, \d+\), the base needs"),
    "transposed tensor": (tensors(LORA, lambda h: first(h, lambda t: t.T.contiguous())), "the base needs"),
    "streams of another width": (tensors(STREAMS, lambda h: first(h, lambda t: t[:, :32].clone())), "the base need"),
    "NaN in the LoRA": (tensors(LORA, lambda h: first(h, lambda t: t * float("nan"))), "NaN or infinite"),
    "infinity in the streams": (tensors(STREAMS, lambda h: first(h, lambda t: t / 0)), "NaN or infinite"),
    "integers": (tensors(LORA, lambda h: first(h, lambda t: t.int())), "expected a floating-point type"),
    "wrong base": (wrong_base, "made for base 'base', whose model shape"),
    "newer format": (settings("ssft_config.json", format_version=99), "format_version is 99"),
    "missing LoRA": (lambda f: (f / LORA).unlink(), "adapter_model.safetensors: missing"),
    "missing streams": (lambda f: (f / STREAMS).unlink(), "streams.safetensors: missing"),
    "missing config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json: missing"),
    "pickle": (lambda f: torch.save({"a": torch.ones(1)}, f / LORA), "no valid safetensors file"),
    "path that climbs out": (climbing_link, "outside"),
    "one tensor short": (tensors(LORA, lambda h: dict(sorted(h.items())[1:])), "alone; the file is incomplete"),
    "another method": (settings("adapter_config.json", peft_type="IA3"), "peft_type is 'IA3'"),
    "DoRA": (settings("adapter_config.json", use_dora=True), "DoRA"),
    "absurd rank": (settings("adapter_config.json", r=-4), "r=-4"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_adapter_is_named_and_disturbs_nothing(shelf, model, tmp_path, damage):
    folder = shutil.copytree(shelf.paths["projected"], tmp_path / "bad")
    function, message = DAMAGE[damage]
    function(folder)
    before = model.generate(PROMPTS, max_new_tokens=8, ignore_eos=True)
    account = model.memory()
    with pytest.raises(BundleError, match=message) as caught:
        model.load_adapter(folder)
    assert str(tmp_path) in str(caught.value)
    assert list(model.adapters()) == ["deep", "many"]
    assert model.active_adapter == "deep"
    after = model.memory()
    assert (after["base"], after["adapters_resident"]) == (account["base"], account["adapters_resident"])
    assert model.generate(PROMPTS, max_new_tokens=8, ignore_eos=True) == before


def test_the_undamaged_adapter_loads(shelf, model, tmp_path):
    folder = shutil.copytree(shelf.paths["projected"], tmp_path / "good")
    model.load_adapter(folder)
    found = model.generate(PROMPTS[0], "good", max_new_tokens=8, ignore_eos=True, return_dict=True)
    assert found["token_ids"] == shelf.reference(PROMPTS[0], "projected", 8)
    model.delete_adapter("good")


@pytest.mark.parametrize("path", ["no_such_folder", "deep/../nowhere"])
def test_a_path_that_leads_nowhere(shelf, model, path):
    with pytest.raises(BundleError, match="is no folder"):
        model.load_adapter(shelf.paths["deep"].parent / path)
