"""Adapter folders that are damaged or mean harm: each is named before a model is touched."""

import json
import os
import shutil

import pytest
import torch
from adapter_folders import change_json, change_tensor

from ssft.adapters._files import all_finite
from ssft.adapters.bundle import BUNDLE_FILES, read_bundle
from ssft.adapters.loader import load_adapted
from ssft.errors import BundleError


def truncate(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def enlarge(folder, name, size):
    """A hole behind the content: takes no disk."""
    with (folder / name).open("r+b") as file:
        file.truncate(size)


def write_safetensors(folder, entries, data=b"", name="streams.safetensors"):
    """A safetensors file with a header of one's own."""
    header = json.dumps(entries).encode()
    (folder / name).write_bytes(len(header).to_bytes(8, "little") + header + data)


def write_entry(folder, dtype, shape, size, data=b""):
    write_safetensors(folder, {"stream_embeddings": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, data)


def change_lora(**changes):
    return lambda folder: change_json(folder, "adapter_config.json", **changes)


DAMAGE = {
    "missing weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: missing"),
    "missing streams": (lambda f: (f / "streams.safetensors").unlink(), "streams.safetensors: missing"),
    "missing settings": (lambda f: (f / "ssft_config.json").unlink(), "ssft_config.json: missing"),
    "missing peft settings": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json: missing"),
    "truncated weights": (lambda f: truncate(f, "adapter_model.safetensors"), "truncated or of another kind"),
    "truncated streams": (lambda f: truncate(f, "streams.safetensors"), "truncated or of another kind"),
    "truncated settings": (lambda f: truncate(f, "ssft_config.json"), "not readable as JSON"),
    "pickle": (lambda f: torch.save({}, f / "streams.safetensors"), "no valid safetensors file"),
    "newer format": (lambda f: change_json(f, "ssft_config.json", format_version=2), "format_version is 2"),
    "unknown field": (
        lambda f: change_json(f, "ssft_config.json", tree={"colour": 1}),
        "tree.colour is unknown to this version",
    ),
    "wrong type": (
        lambda f: change_json(f, "ssft_config.json", streams={"num_streams": "3"}),
        "streams.num_streams='3', expected int",
    ),
    "gamma out of range": (
        lambda f: change_json(f, "ssft_config.json", streams={"num_streams": 99}),
        "γ must lie between",
    ),
    "NaN": (
        lambda f: change_tensor(f, "adapter_model.safetensors", lambda t: t * float("nan")),
        "NaN or infinite",
    ),
    "integers": (lambda f: change_tensor(f, "streams.safetensors", lambda t: t.long()), "expected a floating-point"),
    "not a LoRA": (lambda f: change_json(f, "adapter_config.json", peft_type="IA3"), "only LoRA adapters decode"),
    "one NaN": (
        lambda f: change_tensor(
            f, "adapter_model.safetensors", lambda t: t.index_fill(1, torch.tensor(2), float("nan"))
        ),
        "NaN or infinite",
    ),
    "one infinity": (
        lambda f: change_tensor(f, "streams.safetensors", lambda t: t.index_fill(1, torch.tensor(2), float("-inf"))),
        "NaN or infinite",
    ),
    "key twice": (
        lambda f: (f / "ssft_config.json").write_text('{"format_version": 1, "tree": {}, "tree": {}}'),
        r"not readable as JSON \(key 'tree' stands twice\)",
    ),
    "key twice inside": (
        lambda f: (f / "adapter_config.json").write_text('{"alpha_pattern": {"a": 1, "b": 2, "a": 3}}'),
        "key 'a' stands twice",
    ),
    "nested without end": (
        lambda f: (f / "adapter_config.json").write_text('{"a":' + "[" * 10**6),
        "adapter_config.json: not readable as JSON",
    ),
    "no UTF-8": (lambda f: (f / "adapter_config.json").write_bytes(b'{"\xff": 1}'), "not readable as JSON"),
    "no object": (lambda f: (f / "adapter_config.json").write_text("[1]"), "holds a list, expected an object"),
    "large JSON": (lambda f: enlarge(f, "ssft_config.json", 2**24 + 1), "ssft_config.json: 16,777,217 bytes, but no"),
    "large streams": (lambda f: enlarge(f, "streams.safetensors", 2**23), "streams.safetensors: 8,388,608 bytes, but"),
    "large weights": (
        lambda f: enlarge(f, "adapter_model.safetensors", 2**34 + 1),
        "adapter_model.*17,179,869,185 bytes",
    ),
    "header beyond the file": (
        lambda f: (f / "streams.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}"),
        "streams.safetensors: no valid safetensors file .*header too large",
    ),
    "bytes beyond the file": (lambda f: write_entry(f, "F32", [3, 64], 768, b"\0" * 96), "no valid safetensors file"),
    "shape beyond the file": (
        lambda f: write_entry(f, "F32", [2**40, 64], 768, b"\0" * 768),
        "no valid safetensors file",
    ),
    "shape beyond integers": (lambda f: write_entry(f, "F32", [2**62, 64], 768, b"\0" * 768), "overflow"),
    "no element": (
        lambda f: write_entry(f, "F32", [0, 64], 0),
        r"stream_embeddings has shape \[0, 64\] and so no element",
    ),
    "eight-bit floats": (
        lambda f: write_entry(f, "F8_E4M3", [3, 64], 192, b"\0" * 192),
        "has dtype F8_E4M3, expected a",
    ),
    "four-bit floats": (lambda f: write_entry(f, "F4", [4, 64], 128, b"\0" * 128), "has dtype F4, expected a"),
    "projection of another rank": (
        lambda f: change_json(
            f, "ssft_config.json", streams={"num_streams": 3, "num_msa_layers": 2, "projection_rank": 10**12}
        ),
        "streams.safetensors: no tensor has the side projection_rank=1000000000000",
    ),
    "rank zero": (change_lora(r=0), "adapter_config.json: r=0, expected a positive integer"),
    "rank true": (change_lora(r=True), "r=True, expected a positive integer"),
    "rank text": (change_lora(r="4"), "r='4', expected a positive integer"),
    "rank missing": (change_lora(r=None), "r=None, expected a positive integer"),
    "alpha text": (change_lora(lora_alpha="8"), "lora_alpha='8', expected a finite number"),
    "alpha true": (change_lora(lora_alpha=True), "lora_alpha=True, expected a finite number"),
    "alpha NaN": (change_lora(lora_alpha=float("nan")), "lora_alpha=nan, expected a finite number"),
    "alpha infinite": (change_lora(lora_alpha=float("inf")), "lora_alpha=inf, expected a finite number"),
    "alpha beyond floats": (change_lora(lora_alpha=10**400), r"lora_alpha=10+\.\.\., expected a finite number"),
    "rslora text": (change_lora(use_rslora="no"), "use_rslora='no', expected true or false"),
    "rank pattern list": (change_lora(rank_pattern=[4]), r"rank_pattern=\[4\], expected an object"),
    "rank pattern zero": (change_lora(rank_pattern={"q_proj": 0}), r"rank_pattern\['q_proj'\]=0, expected a positive"),
    "alpha pattern text": (
        change_lora(alpha_pattern={"q": "8"}),
        r"alpha_pattern\['q'\]='8', expected a finite number",
    ),
    "no expression": (change_lora(rank_pattern={"(": 4}), r"rank_pattern='\(' is no regular expression"),
    "no expression in place": (
        change_lora(alpha_pattern={"(?i)q_proj": 4}),
        "alpha_pattern=.* is no regular expression",
    ),
    "targets number": (change_lora(target_modules=3), "target_modules=3, expected a list of strings or a string"),
    "targets numbers": (change_lora(target_modules=["q_proj", 3]), "target_modules=.*, expected a list of strings"),
    "targets object": (change_lora(target_modules={"q_proj": 1}), "target_modules=.*, expected a list of strings"),
    "targets no expression": (change_lora(target_modules="*_proj"), r"target_modules='\*_proj' is no regular"),
    "excluded number": (change_lora(exclude_modules=3), "exclude_modules=3, expected a list of strings or a string"),
    "layers text": (change_lora(layers_to_transform="1"), "layers_to_transform='1', expected an integer"),
    "layers pattern": (
        change_lora(layers_pattern=["(?P<idx>h)"], layers_to_transform=[1]),
        "layers_pattern=.* is no regular expression",
    ),
    "base without hash": (lambda f: change_json(f, "ssft_config.json", base={"id": "x"}), "'base' must hold"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_damage_is_named_before_any_model_is_loaded(written, name):
    _, folder = written
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_wrong_shapes_are_named(written):
    base, folder = written
    change_tensor(folder, "streams.safetensors", lambda t: t[:1])
    with pytest.raises(BundleError, match=r"streams\.safetensors: holds .* need"):
        load_adapted(folder, str(base))


def test_wrong_lora_shape_is_named(written):
    base, folder = written
    change_tensor(folder, "adapter_model.safetensors", lambda t: t[:, :3].contiguous())
    with pytest.raises(BundleError, match=r"has shape .* the base needs"):
        load_adapted(folder, str(base))


# -- links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BUNDLE_FILES if name.endswith(("json", "safetensors"))])
def test_a_link_out_of_the_folder_is_refused(written, name):
    _, folder = written
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    with pytest.raises(BundleError, match=rf"{name}: a link to .*elsewhere, outside the adapter folder"):
        read_bundle(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(os.path.join("..", "elsewhere"))
    with pytest.raises(BundleError, match="outside the adapter folder"):
        read_bundle(folder)


def test_links_within_the_folder_and_to_the_folder_are_followed(written):
    _, folder = written
    expected = read_bundle(folder).weights_sha256
    (folder / "ssft_config.json").rename(folder / "settings.json")
    (folder / "ssft_config.json").symlink_to("settings.json")
    (folder.parent / "current").symlink_to(folder.name)
    assert read_bundle(folder.parent / "current").weights_sha256 == expected


def in_hub_cache(cache, folder, shared):
    """The folder as huggingface_hub keeps it, in a subfolder of the repository; returns the snapshot's folder."""
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / "0123abcd" / "adapters" / "a"
    for path in (snapshot, repository / "blobs", cache / "blobs" / "01"):
        path.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        blob = repository / "blobs" / f"blob{i}"
        if shared:
            shutil.copy(path, cache / "blobs" / "01" / f"01{i}")
            blob.symlink_to(os.path.join("..", "..", "blobs", "01", f"01{i}"))
        else:
            shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_the_links_of_the_hub_cache_are_followed(written, tmp_path, shared):
    _, folder = written
    snapshot = in_hub_cache(tmp_path / "hub", folder, shared)
    assert read_bundle(snapshot).weights_sha256 == read_bundle(folder).weights_sha256


@pytest.mark.parametrize("place", ["secret", "../secret", "blobs/deep/secret", "../blobs/secret"])
def test_a_snapshot_links_to_nothing_but_its_blobs(written, tmp_path, place):
    _, folder = written
    snapshot = in_hub_cache(tmp_path / "hub", folder, shared=False)
    target = tmp_path / "hub" / "models--owner--name" / place
    target.parent.mkdir(exist_ok=True)
    shutil.copy(folder / "ssft_config.json", target)
    (snapshot / "ssft_config.json").unlink()
    (snapshot / "ssft_config.json").symlink_to(os.path.relpath(target, snapshot))
    with pytest.raises(BundleError, match="outside the adapter folder"):
        read_bundle(snapshot)


def test_only_a_repository_of_the_cache_shares_blobs(written, tmp_path):
    """Somebody's own folder `snapshots` says nothing about the folder `blobs` beside its parent."""
    _, folder = written
    in_hub_cache(tmp_path / "hub", folder, shared=True)
    (tmp_path / "hub" / "models--owner--name").rename(tmp_path / "hub" / "photos")
    with pytest.raises(BundleError, match="outside the adapter folder"):
        read_bundle(tmp_path / "hub" / "photos" / "snapshots" / "0123abcd" / "adapters" / "a")


def test_a_broken_link_is_a_missing_file_not_a_plain_lora(written):
    _, folder = written
    for name in ("ssft_config.json", "streams.safetensors"):
        (folder / name).unlink()
        (folder / name).symlink_to("gone")
    with pytest.raises(BundleError, match=r"ssft_config\.json: missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_is_no_file_is_refused(written, name):
    """Reading a pipe would wait for ever."""
    _, folder = written
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=f"{name}: no regular file"):
        read_bundle(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        read_bundle(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_one_bad_number_is_found_anywhere(dtype, size):
    good = torch.linspace(-3, 3, size).to(dtype)
    assert all_finite(good)
    for position in {0, size // 2, size - 1}:
        for value in (float("nan"), float("inf"), float("-inf")):
            bad = good.clone()
            bad[position] = value
            assert not all_finite(bad)
