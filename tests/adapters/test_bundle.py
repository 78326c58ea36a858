"""The adapter bundle: round trip, plain peft, damage, wrong base."""

import json
import os
import shutil

import pytest
import torch
from conftest import with_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_base import save_tiny_base

from ssft.adapters._files import all_finite
from ssft.adapters.bundle import BUNDLE_FILES, HASHED, load_stream_modules, read_bundle, write_bundle
from ssft.adapters.card import write_card
from ssft.adapters.loader import load_adapted
from ssft.bases import base_fingerprint, load_base
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError
from ssft.streams.config import StreamConfig

STREAMS = StreamConfig(num_streams=3, num_msa_layers=2, projection_rank=2)
PROMPT = {"prompt": "say 12:"}


@pytest.fixture(scope="module", params=["llama", "opt"])
def master(tmp_path_factory, request):
    """A folder with `base` and `adapter`: a LoRA that is no identity, with streams."""
    root = tmp_path_factory.mktemp(request.param)
    folder = save_tiny_base(root / "base", request.param)
    model, tokenizer = load_base(folder, dtype="float32")
    fingerprint = base_fingerprint(model, tokenizer, folder)
    peft_model = with_adapter(model, STREAMS)
    bundle = write_bundle(
        root / "adapter",
        peft_model,
        tree=TreeConfig(max_nodes=7),
        base=fingerprint,
        run_yaml="base: base\n",
        provenance={},
    )
    write_card(bundle)
    return root


@pytest.fixture
def written(master, tmp_path):
    """(base folder, adapter folder) of one's own."""
    shutil.copytree(master, tmp_path, dirs_exist_ok=True)
    return tmp_path / "base", tmp_path / "adapter"


def texts(adapter, base, streaming=True):
    adapted = load_adapted(adapter, str(base), dtype="float32")
    out = adapted.decoder(streaming).generate([adapted.encode(PROMPT)], 24)[0]
    return out.token_ids, adapted


def test_round_trip_keeps_every_weight_and_setting(written):
    _, folder = written
    bundle = read_bundle(folder)
    assert {p.name for p in folder.iterdir()} == set(BUNDLE_FILES)
    assert bundle.stream_config == STREAMS
    assert bundle.tree == TreeConfig(max_nodes=7)
    assert bundle.extra_parameters == 3 * 64 + 2 * 2 * 64
    assert bundle.size_bytes == sum(p.stat().st_size for p in folder.iterdir())
    assert bundle.format_version == 1


def test_loaded_adapter_streams_the_text_that_plain_peft_decodes(written):
    base, folder = written
    streamed, _ = texts(folder, base)
    plain, adapted = texts(folder, base, streaming=False)
    bare, _ = texts(None, base)
    model, _ = load_base(base, dtype="float32")
    with_peft = PeftModel.from_pretrained(model, str(folder)).eval()
    ids = torch.tensor([adapted.encode(PROMPT)])
    reference = with_peft.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None
    )
    assert streamed == plain == reference[0, ids.shape[1] :].tolist()
    assert bare != plain, "the adapter changes nothing, so the test shows nothing"


def test_merged_weights_give_the_same_text(written):
    base, folder = written
    expected, _ = texts(folder, base)
    merged = load_adapted(folder, str(base), dtype="float32", merge=True)
    assert not any("lora_" in name for name, _ in merged.model.named_parameters())
    for streaming in (True, False):
        found = merged.decoder(streaming).generate([merged.encode(PROMPT)], 24)[0]
        assert found.token_ids == expected


def test_merging_into_four_bit_weights_is_refused(written):
    base, folder = written
    with pytest.raises(ConfigError, match="4-bit weights cannot hold a LoRA"):
        load_adapted(folder, str(base), quantization="4bit", merge=True)


def test_lora_file_holds_what_peft_writes_and_nothing_of_ours(written):
    _, folder = written
    assert all("lora_" in key for key in load_file(folder / "adapter_model.safetensors"))
    assert set(load_file(folder / "streams.safetensors")) == {
        "stream_embeddings",
        "projection_down",
        "projection_up",
    }


def test_plain_peft_folder_decodes_without_streams(written):
    base, folder = written
    expected, _ = texts(folder, base)
    for name in ("ssft_config.json", "streams.safetensors", "provenance.json", "run.yaml"):
        (folder / name).unlink()
    assert read_bundle(folder).stream_config is None
    found, adapted = texts(folder, base)
    assert adapted.streams is None
    assert found == expected


def change_json(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensor(folder, name, function):
    tensors = load_file(folder / name)
    key = sorted(tensors)[-1]
    save_file({**tensors, key: function(tensors[key])}, folder / name)


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


def test_wrong_base_is_refused(written, tmp_path):
    _, folder = written
    other = save_tiny_base(tmp_path / "other", "llama", num_hidden_layers=5)
    with pytest.raises(BundleError, match=r"made for base 'base', whose (architecture|model shape)"):
        load_adapted(folder, str(other))


def test_writing_never_replaces_something_else(written, tmp_path):
    base, folder = written
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    adapted = load_adapted(folder, str(base))
    with pytest.raises(BundleError, match="exists and is no adapter bundle"):
        write_bundle(tmp_path / "mine", adapted.model, tree=TreeConfig(), base=read_bundle(folder).base)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_bundle_replaces_an_older_one_whole(written):
    base, folder = written
    model, tokenizer = load_base(base, dtype="float32")
    fingerprint = base_fingerprint(model, tokenizer, base)
    (folder / "stray.txt").write_text("old")
    write_bundle(folder, with_adapter(model, StreamConfig(2, 1)), tree=TreeConfig(), base=fingerprint)
    assert not (folder / "stray.txt").exists()
    assert read_bundle(folder).stream_config.num_streams == 2
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


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


# -- what was read ----------------------------------------------------------------------------------------------


def edit_in_place(path):
    """One byte of the last tensor, or one blank behind the JSON, as a copy over the file would do."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".json":
        data += b" "
    else:
        data[-3] ^= 1
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("name", HASHED)
def test_the_hash_tells_every_change(written, name):
    _, folder = written
    bundle = read_bundle(folder)
    assert read_bundle(folder).weights_sha256 == bundle.weights_sha256
    assert bundle.unchanged()
    edit_in_place(folder / name)
    assert read_bundle(folder).weights_sha256 != bundle.weights_sha256
    assert not bundle.unchanged()
    (folder / name).unlink()
    assert not bundle.unchanged()


def test_the_hash_is_of_the_content_alone(written, tmp_path):
    _, folder = written
    bundle = read_bundle(folder)
    shutil.copytree(folder, tmp_path / "copy")
    change_json(tmp_path / "copy", "provenance.json", note="retold")
    assert read_bundle(tmp_path / "copy").weights_sha256 == bundle.weights_sha256
    for name in HASHED:
        os.utime(folder / name, (1, 1))
    assert bundle.unchanged()
    shutil.rmtree(folder)
    assert not bundle.unchanged()


def test_a_plain_lora_that_was_given_streams_is_changed(written):
    _, folder = written
    settings, streams = (folder / "ssft_config.json").read_bytes(), (folder / "streams.safetensors").read_bytes()
    for name in ("ssft_config.json", "streams.safetensors"):
        (folder / name).unlink()
    bundle = read_bundle(folder)
    assert bundle.unchanged()
    assert bundle.weights_bytes == (folder / "adapter_model.safetensors").stat().st_size
    (folder / "ssft_config.json").write_bytes(settings)
    (folder / "streams.safetensors").write_bytes(streams)
    assert not bundle.unchanged()


def test_a_file_that_is_overwritten_leaves_what_was_read(written):
    """A mapped file would change under the tensors, or end the process where it got shorter."""
    _, folder = written
    bundle = read_bundle(folder)
    expected = {key: value.clone() for key, value in bundle.lora_weights.items()}
    path = folder / "adapter_model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\0" * size)
    assert all(torch.equal(value, expected[key]) for key, value in bundle.lora_weights.items())


def test_released_tensors_leave_the_counts(written):
    base, folder = written
    bundle = read_bundle(folder)
    before = (bundle.lora_parameters, bundle.extra_parameters, bundle.weights_bytes, bundle.size_bytes)
    files = ("adapter_model.safetensors", "streams.safetensors")
    assert bundle.weights_bytes == sum((folder / name).stat().st_size for name in files)
    assert bundle.lora_parameters == sum(t.numel() for t in load_file(folder / files[0]).values())
    bundle.release()
    assert (bundle.lora_weights, bundle.stream_weights) == ({}, {})
    assert (bundle.lora_parameters, bundle.extra_parameters, bundle.weights_bytes, bundle.size_bytes) == before
    model, tokenizer = load_base(base, dtype="float32")
    with pytest.raises(BundleError, match="released from memory; read the bundle again"):
        bundle.check_base(model, base_fingerprint(model, tokenizer, base))
    with pytest.raises(BundleError, match="released from memory; read the bundle again"):
        load_stream_modules(bundle, 64)


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
