"""Which base an adapter names: to others, to ssft, and what its hash makes of either."""

import hashlib
import json
import shutil

import pytest
from adapter_folders import peft_folder
from fake_adapted import save_bundle
from tiny_base import save_tiny_base

from ssft.base.load import find_base, load_base, public_name
from ssft.bundle.format import HASHED
from ssft.bundle.read import read_bundle, read_outline
from ssft.errors import BaseModelError
from ssft.files import write_sorted_json
from ssft.runtime.loader import load_adapted

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with `bases/tiny`, and `adapter`, which was made over that base while the folder was the working one."""
    folder = tmp_path_factory.mktemp("names")
    save_tiny_base(folder / "bases" / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_bundle(folder / "adapter", "bases/tiny")
    return folder


def change(folder, name, **values):
    """Other values in a JSON file, written as ssft writes it."""
    write_sorted_json(folder / name, {**json.loads((folder / name).read_text()), **values})


def name_in(folder):
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.parametrize(
    ("identity", "place", "expected"),
    [
        ("smollm2-135m", "/cache/bases/smollm2-135m", HUB),
        ("owner/name", "owner/name", "owner/name"),
        ("tiny", "/models/tiny", "/models/tiny"),
        ("tiny", "../tiny", "../tiny"),
        ("tiny", "bases/tiny", "./bases/tiny"),  # else it would read as a hub id
        ("tiny", "", "tiny"),
    ],
)
def test_what_others_find_a_base_by(identity, place, expected):
    assert public_name(identity, place) == expected


@pytest.mark.parametrize(
    ("identity", "public", "expected"),
    [
        ("smollm2-135m", HUB, "smollm2-135m"),
        (HUB, HUB, HUB),  # trained over the hub's own weights, not over the quantised copy
        ("", HUB, "smollm2-135m"),
        ("", "owner/name", "owner/name"),
        ("tiny", "./bases/tiny", "./bases/tiny"),
        ("tiny", "tiny", "tiny"),  # bundles of before had the last part alone
        ("tiny", "./elsewhere/tiny", "./elsewhere/tiny"),
        ("bases", "./elsewhere/bases", "bases"),  # a folder here of the name that ssft knows
        ("", "~nobody-of-this-name/tiny", "~nobody-of-this-name/tiny"),
        ("", "", ""),
    ],
)
def test_which_of_an_adapters_names_is_taken(root, monkeypatch, identity, public, expected):
    monkeypatch.chdir(root)
    assert find_base(identity, public) == expected


def test_an_embedded_copy_in_place_of_the_hubs_model_is_said(caplog):
    find_base("", HUB)
    assert caplog.messages == [f"base {HUB}: taking smollm2-135m, ssft's quantised copy; --base takes another"]


def test_an_adapter_over_a_folder_needs_no_base(root, monkeypatch):
    monkeypatch.chdir(root)
    assert (name_in(root / "adapter"), read_outline("adapter").base["id"]) == ("./bases/tiny", "tiny")
    adapted = load_adapted("adapter", dtype="float32", device="cpu")
    assert adapted.generate({"prompt": "say 1:"}, max_new_tokens=4, return_dict=True)["tokens"] == 4


def test_a_base_that_is_not_here_is_named_as_it_was_given(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match=r"base './bases/tiny' is neither an alias .* with --base"):
        load_adapted(root / "adapter", dtype="float32", device="cpu")


def test_a_plain_lora_is_loaded_over_the_base_that_it_names(root, tmp_path):
    base = root / "bases" / "tiny"
    folder = peft_folder(tmp_path / "plain", load_base(base, dtype="float32")[0])
    assert name_in(folder) == str(base)
    assert load_adapted(folder, dtype="float32", device="cpu").bank.fingerprint["id"] == "tiny"


def test_the_hash_sees_what_ssft_calls_the_base_and_not_what_others_do(root, tmp_path):
    before = read_bundle(root / "adapter")
    folder = shutil.copytree(root / "adapter", tmp_path / "adapter")
    change(folder, "adapter_config.json", base_model_name_or_path="owner/name")
    renamed = read_bundle(folder)
    assert renamed.weights_sha256 == before.weights_sha256
    assert renamed.unchanged()
    change(folder, "adapter_config.json", base_model_name_or_path='a "quoted" name of another length')
    assert renamed.unchanged()
    change(folder, "adapter_config.json", lora_alpha=9)
    assert not renamed.unchanged()
    assert read_bundle(folder).weights_sha256 != before.weights_sha256
    change(folder, "adapter_config.json", lora_alpha=renamed.loras[0].config["lora_alpha"])
    assert read_bundle(folder).weights_sha256 == before.weights_sha256
    change(folder, "ssft_config.json", base={**before.base, "id": "another"})
    assert read_bundle(folder).weights_sha256 != before.weights_sha256


def test_a_folder_of_before_has_the_hash_of_before(root, tmp_path):
    """Then both files had the same name of the base, and every byte was hashed as it stands."""
    folder = shutil.copytree(root / "adapter", tmp_path / "adapter")
    change(folder, "adapter_config.json", base_model_name_or_path="tiny")
    digest = hashlib.sha256()
    for path in (folder / name for name in HASHED if (folder / name).exists()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    assert read_bundle(folder).weights_sha256 == digest.hexdigest() == read_bundle(root / "adapter").weights_sha256
