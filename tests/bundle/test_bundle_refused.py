"""Which links of an adapter folder are followed, and what one of another shape is told; see also test_hostile.py."""

import os
import shutil

import pytest
import torch
from adapter_folders import change_tensor

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.fit import read_fitting
from ssft.bundle.folder import AdapterFiles, all_finite
from ssft.bundle.format import HASHED, PROVENANCE
from ssft.bundle.read import read_bundle, read_outline, read_tensors
from ssft.errors import BundleError
from ssft.runtime.loader import load_adapted


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


# -- two stages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "streams.safetensors"])
def test_a_folder_that_changes_between_the_stages_is_refused(written, name):
    _, folder = written
    outline = read_outline(folder)
    assert read_tensors(outline).weights_sha256 == read_bundle(folder).weights_sha256
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b" ", b"\t", 1) if name.endswith("json") else data[:-1] + b"\0")
    with pytest.raises(BundleError, match=rf"{name}: changed while it was read"):
        read_tensors(outline)


def test_a_load_reads_every_header_and_every_file_once(written, monkeypatch):
    base, folder = written
    model, tokenizer = load_base(base, dtype="float32")
    headers, read = [], []
    shapes, bytes_of = AdapterFiles.shapes, AdapterFiles.read
    monkeypatch.setattr(
        AdapterFiles, "shapes", lambda self, name, *more: headers.append(name) or shapes(self, name, *more)
    )
    monkeypatch.setattr(
        AdapterFiles,
        "read",
        lambda self, name, *more, **named: read.append(name) or bytes_of(self, name, *more, **named),
    )
    read_fitting(folder, model, base_fingerprint(model, tokenizer, base))
    assert sorted(headers) == ["adapter_model.safetensors", "streams.safetensors"]
    assert sorted(read) == sorted(name for name in (*HASHED, PROVENANCE) if (folder / name).exists())


LATER = ("stream_lora_config.json", "stream_lora.safetensors", "draft_vocabulary.safetensors")
"""Files that a bundle of format 1 does not have."""

# -- links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*(name for name in HASHED if name not in LATER), PROVENANCE])
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
