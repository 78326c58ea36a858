"""The name of a base: an alias, an id on the hub or a folder, and what is no whole base. No network."""

import pytest
from loopback_hub import connected_hub
from word_base import save_word_base

from ssft.base import load as bases
from ssft.base.fingerprint import base_fingerprint
from ssft.base.named import ALIASES, EMBEDDED
from ssft.errors import BaseModelError

# Names


def test_a_hub_id_is_returned_as_it_is():
    assert bases.resolve_base("someone/some-model_1.5B") == "someone/some-model_1.5B"


@pytest.mark.parametrize("name", ["smollm2-134m", "SmolLM2-135M"])
def test_an_unknown_alias_gets_a_suggestion(name):
    with pytest.raises(BaseModelError, match=r"neither an alias.*did you mean 'smollm2-135m'"):
        bases.resolve_base(name)


@pytest.mark.parametrize("name", ["", "a/b/c", "./nowhere", "owner/", "/no/such/folder"])
def test_what_is_no_name_is_an_error(name):
    with pytest.raises(BaseModelError, match="neither an alias"):
        bases.resolve_base(name)


@pytest.mark.parametrize(("name", "meant"), [("phi-1_5", "phi-1.5"), ("llama3.2-1b", "llama-3.2-1b")])
def test_a_dot_in_an_alias_is_a_letter(name, meant):
    with pytest.raises(BaseModelError, match=f"did you mean '{meant}'"):
        bases.resolve_base(name)
    with pytest.raises(BaseModelError, match="give one of these with --base"):
        bases.resolve_base("qwen-2.5")


def test_fetching_an_unknown_alias_is_an_error():
    with pytest.raises(BaseModelError, match=r"'smollm' is no alias of a base.*did you mean"):
        bases.fetch_base("smollm")


# Local folders


def test_a_whole_folder_is_accepted_also_in_shards(tiny_base, tmp_path):
    assert bases.resolve_base(tiny_base) == tiny_base
    sharded = save_word_base(tmp_path / "sharded", shard_size="100KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    assert bases.resolve_base(str(sharded)) == sharded


def test_a_folder_without_weights_names_the_file(tmp_path):
    folder = save_word_base(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"model\.safetensors is missing.*save_pretrained"):
        bases.resolve_base(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = save_word_base(tmp_path / "base", shard_size="100KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BaseModelError, match=f"{shard.name} is missing"):
        bases.resolve_base(folder)


def test_a_damaged_shard_index_is_named(tmp_path):
    folder = save_word_base(tmp_path / "base", shard_size="100KB")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"index\.json is damaged"):
        bases.resolve_base(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_named(tmp_path, keep):
    folder = save_word_base(tmp_path / "base")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(BaseModelError, match=r"model\.safetensors is truncated or damaged.*download it again"):
        bases.resolve_base(folder)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        bases.resolve_base(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseModelError, match=r"is an adapter, not a base.*--base"):
        bases.resolve_base(tmp_path)


# Aliases of bases on the hub


@pytest.mark.parametrize("name", sorted(set(ALIASES) - set(EMBEDDED)))
def test_an_alias_stands_for_a_hub_id(name, tiny_base):
    hub_id = ALIASES[name].hub_id
    assert bases.resolve_base(name) == hub_id
    assert bases.hub_id(name) == bases.hub_id(hub_id) == hub_id
    model, tokenizer = bases.load_base(tiny_base, dtype="float32")
    assert base_fingerprint(model, tokenizer, name) == base_fingerprint(model, tokenizer, hub_id)


def test_a_base_of_the_hub_is_fetched_into_its_cache_and_loaded_by_its_alias(tiny_base, tmp_path, monkeypatch):
    with connected_hub(monkeypatch, tmp_path) as hub:
        files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
        hub.create("Qwen/Qwen3-0.6B", {**files, "pytorch_model.bin": b"", "onnx/model.json": b""})
        folder = bases.fetch_base("qwen3-0.6b")
        assert {path.name for path in folder.iterdir()} == set(files)
        model, _ = bases.load_base("qwen3-0.6b", dtype="float32")
        assert model.name_or_path == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("act", [bases.fetch_base, bases.load_base])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("opt-1.3b", r"Check the id, the network, HF_TOKEN for a gated model and HF_HUB_OFFLINE, or give a folder"),
        ("gemma-3-270m", r"licence \(Gemma Terms of Use\): do so at https://huggingface.co/google/gemma-3-270m-it and"),
    ],
)
def test_a_hub_that_does_not_give_a_base_is_told(hub, act, name, remedy):
    with pytest.raises(BaseModelError, match=rf"(?s)base '{name}'.* cannot be (fetched|loaded).*{remedy}"):
        act(name)
