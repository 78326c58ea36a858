"""Fixtures: adapter folders that tests read and spoil."""

import shutil

import pytest
from adapter_folders import peft_folder
from conftest import tiny_llama, with_adapter
from tiny_base import save_tiny_base

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.write import write_bundle
from ssft.card.write import write_card
from ssft.decoding.config import TreeConfig
from ssft.streams.config import StreamConfig

STREAMS = StreamConfig(num_streams=3, num_msa_layers=2, projection_rank=2)


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


@pytest.fixture
def folder(tmp_path):
    """A plain LoRA on every linear layer of the tiny llama."""
    return peft_folder(tmp_path / "adapter", tiny_llama())
