"""The adapter bundle: round trip, plain peft, damage, wrong base."""

import json

import pytest
import torch
from conftest import with_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_base import save_tiny_base

from ssft.adapters.bundle import BUNDLE_FILES, read_bundle, write_bundle
from ssft.adapters.card import write_card
from ssft.adapters.loader import load_adapted
from ssft.bases import base_fingerprint, load_base
from ssft.decoding.config import TreeConfig
from ssft.errors import BundleError, ConfigError
from ssft.streams.config import StreamConfig

STREAMS = StreamConfig(num_streams=3, num_msa_layers=2, projection_rank=2)
PROMPT = {"prompt": "say 12:"}


@pytest.fixture(params=["llama", "opt"])
def written(tmp_path, request):
    """(base folder, adapter folder) of a LoRA that is no identity, with streams."""
    folder = save_tiny_base(tmp_path / "base", request.param)
    model, tokenizer = load_base(folder, dtype="float32")
    fingerprint = base_fingerprint(model, tokenizer, folder)
    peft_model = with_adapter(model, STREAMS)
    bundle = write_bundle(
        tmp_path / "adapter",
        peft_model,
        tree=TreeConfig(max_nodes=7),
        base=fingerprint,
        run_yaml="base: base\n",
        provenance={},
    )
    write_card(bundle)
    return folder, tmp_path / "adapter"


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
