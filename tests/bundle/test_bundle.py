"""The adapter bundle: round trip, plain peft, wrong base, what is known of it later."""

import json
import os
import shutil

import pytest
import torch
from adapter_folders import change_json
from conftest import with_adapter
from peft import PeftModel
from safetensors.torch import load_file
from tiny_base import save_tiny_base

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.fit import check_fit
from ssft.bundle.format import BUNDLE_FILES, HASHED
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_bundle
from ssft.card.notes import carried_over
from ssft.card.results import About, Results, read_results, write_results
from ssft.card.write import KEPT, write_card
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError
from ssft.runs.methods import training_method
from ssft.runtime.loader import load_adapted
from ssft.streams.config import StreamConfig

LATER = ("stream_lora_config.json", "stream_lora.safetensors", "draft_vocabulary.safetensors")  # formats 2 and 3
STREAMS = StreamConfig(num_streams=3, num_msa_layers=2, projection_rank=2)
PROMPT = {"prompt": "say 12:"}


def texts(adapter, base, streaming=True):
    adapted = load_adapted(adapter, str(base), dtype="float32")
    out = adapted.complete([adapted.encode(PROMPT)], max_new_tokens=24, ignore_eos=True, speculate=streaming)[0]
    return out.token_ids, adapted


def test_round_trip_keeps_every_weight_and_setting(written):
    _, folder = written
    bundle = read_bundle(folder)
    written = {p.name for p in folder.iterdir()}
    assert written == set(BUNDLE_FILES) - {"results.json", "training.png", *LATER}  # never measured
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
        found = merged.complete([merged.encode(PROMPT)], max_new_tokens=24, ignore_eos=True, speculate=streaming)[0]
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
    assert adapted.active.streams is None
    assert found == expected


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
    (folder / "training.png").write_text("old")
    write_bundle(folder, with_adapter(model, StreamConfig(2, 1)), tree=TreeConfig(), base=fingerprint)
    assert not (folder / "training.png").exists()
    assert read_bundle(folder).stream_config.num_streams == 2
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def again(base, folder):
    """Another training's bundle in the place of `folder`."""
    model, tokenizer = load_base(base, dtype="float32")
    fingerprint = base_fingerprint(model, tokenizer, base)
    return write_bundle(
        folder,
        with_adapter(model, StreamConfig(2, 1)),
        tree=TreeConfig(),
        base=fingerprint,
        keep=carried_over(folder),
    )


def test_a_new_training_keeps_what_the_user_wrote(written):
    base, folder = written
    old = read_bundle(folder)
    about = About("cc-by-4.0", ["owner/rows"], "CC BY 4.0")
    write_results(old, Results(about))
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n## My notes\n\nMade with càre.\n", encoding="utf-8")
    bundle = again(base, folder)
    assert bundle.weights_sha256 != old.weights_sha256
    assert card.read_text(encoding="utf-8") == f"{KEPT}\n\n## My notes\n\nMade with càre.\n"
    assert read_results(bundle) == Results(about)
    write_card(bundle)
    text = card.read_text(encoding="utf-8")
    assert text.endswith(f"licence of the data: CC BY 4.0\n\n{KEPT}\n\n## My notes\n\nMade with càre.\n")


def test_a_new_training_keeps_a_card_by_another_hand_whole(written):
    base, folder = written
    (folder / "README.md").write_text("# Mine\n")
    again(base, folder)
    assert (folder / "README.md").read_text() == f"{KEPT}\n# Mine\n"


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("stray.txt", b"mine", "holds stray.txt, which is no file of a bundle and would be lost"),
        ("README.md", b"caf\xe9", r"README\.md: not readable as text"),
        ("results.json", b"{", r"results\.json: not readable as JSON"),
    ],
)
def test_what_cannot_be_kept_stops_the_new_bundle(written, name, content, message):
    base, folder = written
    (folder / name).write_bytes(content)
    before = snapshot(folder)
    with pytest.raises(BundleError, match=message):
        training_method("streams").may_replace(folder)  # before hours are spent on a training
    with pytest.raises(BundleError, match=message):
        again(base, folder)
    assert snapshot(folder) == before


def test_the_old_bundle_comes_back_when_the_last_rename_fails(written, monkeypatch):
    base, folder = written
    before, rename = snapshot(folder), os.replace

    def failing(source, destination):
        if source.parent.name.startswith(".") and source.name == folder.name:
            raise OSError("the disk is gone")
        rename(source, destination)

    monkeypatch.setattr("ssft.files.os.replace", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        again(base, folder)
    assert snapshot(folder) == before


def test_a_base_is_quoted_for_the_shell(written, tmp_path):
    base, folder = written
    held = json.loads((folder / "ssft_config.json").read_text())["base"]
    change_json(folder, "ssft_config.json", base={**held, "config_sha256": "0" * 64})
    change_json(folder, "adapter_config.json", base_model_name_or_path="x; rm -r ~")
    with pytest.raises(BundleError, match=r"give --base 'x; rm -r ~' or train"):
        load_adapted(folder, str(base))


def test_weights_are_read_only_where_they_fit(written, tmp_path, monkeypatch):
    """Gigabytes that are another base's must not take memory."""
    _, folder = written
    other = save_tiny_base(tmp_path / "other", "llama", num_hidden_layers=5)
    read = []
    monkeypatch.setattr("ssft.bundle.folder.load", lambda data: read.append(len(data)))
    with pytest.raises(BundleError, match="made for base"):
        load_adapted(folder, str(other))
    assert read == []


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


@pytest.mark.parametrize("name", [name for name in HASHED if name not in LATER])
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
    for name in sorted(set(HASHED) - set(LATER)):
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
    expected = {key: value.clone() for key, value in bundle.loras[0].weights.items()}
    path = folder / "adapter_model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\0" * size)
    assert all(torch.equal(value, expected[key]) for key, value in bundle.loras[0].weights.items())


def test_released_tensors_leave_the_counts(written):
    base, folder = written
    bundle = read_bundle(folder)
    before = (bundle.loras[0].parameters, bundle.extra_parameters, bundle.weights_bytes, bundle.size_bytes)
    files = ("adapter_model.safetensors", "streams.safetensors")
    assert bundle.weights_bytes == sum((folder / name).stat().st_size for name in files)
    assert bundle.loras[0].parameters == sum(t.numel() for t in load_file(folder / files[0]).values())
    bundle.release()
    assert (bundle.loras[0].weights, bundle.stream_weights) == ({}, {})
    assert (bundle.loras[0].parameters, bundle.extra_parameters, bundle.weights_bytes, bundle.size_bytes) == before
    model, tokenizer = load_base(base, dtype="float32")
    with pytest.raises(BundleError, match="was released from memory; read it again"):
        check_fit(bundle, model, base_fingerprint(model, tokenizer, base))
