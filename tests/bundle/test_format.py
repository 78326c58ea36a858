"""The bundle's format is a promise: what this version writes stays readable, and nothing changes in it unnoticed.

`tests/fixtures/bundle_v1` was written by `ssft train quickstart` over the tiny Llama of `tests/tiny_base.py` (its
run.yaml says how) before there was a `training.png`; `bundle_v1.json` holds what it decodes. `bundle_v2` is that LoRA
with streams that have one of their own, written by the same command with `adapter=bundle_v1 training.mode=lossless`, so
that it decodes the same. `bundle_v3` is `bundle_v2` with a draft vocabulary, and decodes the same too; `ssft vocabulary
bundle_v2 --size 40` wrote it over the rows that both were trained on. They are never written again: a new format gets a
fixture of its own beside them.
"""

import json
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from adapter_folders import change_json
from conftest import with_adapter
from peft import PeftModel
from safetensors.torch import load_file
from tiny_base import save_tiny_base

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bundle.fit import load_stream_modules
from ssft.bundle.format import BUNDLE_FILES, FORMAT_VERSION, HASHED, OWN_LORA_VERSION, VOCABULARY_VERSION
from ssft.bundle.read import read_bundle
from ssft.bundle.write import write_bundle
from ssft.card import results
from ssft.decoding.config import TreeConfig
from ssft.environment import LIBRARIES
from ssft.errors import BundleError
from ssft.recipes.recipe import Recipe, load_recipe
from ssft.results import schema
from ssft.runs.provenance import provenance
from ssft.runtime.loader import load_adapted
from ssft.runtime.model import MultiAdapterModel
from ssft.streams.config import StreamConfig
from ssft.streams.modules import StreamModules

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
BUNDLE = FIXTURES / "bundle_v1"
BUNDLE_2, BUNDLE_3 = FIXTURES / "bundle_v2", FIXTURES / "bundle_v3"
EXPECTED = json.loads((FIXTURES / "bundle_v1.json").read_text())

SHA256_2 = "33c5ddc4f7a3795d679253be356c1742b8338961a940cde80be9710eaa81ab7a"
SHA256_3 = "4acd92be403083fbeeb305332d919fa32437b68987df7322ef587f8b2bbced73"

CHANGED = (
    "{what} is not what this format of the adapter bundle has. Adapters that people trained are at stake: either undo "
    "the change; or make it an optional key whose default means what its absence meant before, and add it here (and to "
    "OPTIONAL); or give bundles with the change the next version, let read_bundle still read the old ones, keep "
    "tests/fixtures/bundle_v* as they are and add a fixture."
)

REQUIRED_FILES = ("adapter_config.json", "adapter_model.safetensors", "ssft_config.json", "streams.safetensors")
OWN_FILES = ("stream_lora_config.json", "stream_lora.safetensors")  # format 2 has them, format 1 has not
VOCABULARY_FILE = "draft_vocabulary.safetensors"  # format 3 has it
OPTIONAL_FILES = ("run.yaml", "provenance.json", "README.md", "results.json", "training.png")

STREAMS = {
    "num_streams": 4,
    "num_msa_layers": 8,
    "identifier": "embedding",
    "projection_rank": 0,
    "mode": "shared",
    "prune_head_rank": 0,
}
TREE = {
    "kind": "best_first",
    "max_nodes": 16,
    "top_k": 4,
    "max_depth": 0,
    "max_stream_nodes": 0,
    "max_batch_nodes": 0,
    "budget": "fixed",
    "lookup": False,
    "prune_below": 0.0,
    "prune_keep": 0,
}
OPTIONAL = {
    "streams": ("mode", "prune_head_rank"),
    "tree": ("max_stream_nodes", "max_batch_nodes", "budget", "lookup", "prune_below", "prune_keep"),
}
"""Keys that early bundles of format 1 do not have."""
LATER = {"budget", "lookup", "prune_below", "prune_keep", "prune_head_rank"}
"""Of these, those that are younger than the fixtures."""

BASE = ("id", "architecture", "config_sha256", "tokenizer_sha256")

PROVENANCE = {
    "method": str,  # optional: bundles from before there were other methods do not have it
    "ssft": str,
    "libraries": dict,
    "commit": str,
    "device": str,
    "processes": int,
    "train_seconds": float,
    "train_rows": int,
    "validation_rows": int,
    "data": dict,
    "steps": int,
    "metrics": dict,
    "history": list,
}

MEASURED = [
    *("adapter", "adapter_sha256", "device", "precision", "rows", "batch_size", "max_new_tokens", "tree", "data"),
    *("command", "format"),
]
ANSWERED = [*MEASURED, "kind", "tokens", "calls", "method", "trained_on"]
RESULTS = {
    results.Results: ["about", "results"],
    results.About: ["license", "datasets", "data_license"],
    schema.BenchResult: [
        *MEASURED,
        *("threads", "rounds", "interrupted", "seed", "versions", "methods", "baseline", "left_out", "outputs"),
        *("prompts_sha256", "temperature", "form"),
    ],
    schema.MethodResult: [
        *("kind", "lossless", "tokens", "calls", "passes", "tokens_per_call", "seconds", "prompt_seconds"),
        *("prompt_tokens", "decode_seconds", "seconds_per_round", "tokens_per_second", "speedup", "speedup_interval"),
        *("decode_speedup", "identical", "extra_parameters", "extra_bytes", "peak_bytes", "accepted", "differences"),
        *("categories", "training"),
    ],
    schema.CategoryResult: [
        *("rows", "tokens", "calls", "tokens_per_call", "seconds", "baseline", "speedup", "speedup_interval"),
        "identical",
    ],
    schema.Difference: ["row", "position", "expected", "got", "margin"],
    schema.VerifyResult: [*ANSWERED, "against", "identical", "differences", "operation"],
    schema.EvalResult: [
        *ANSWERED,
        *("text_sha256", "metric", "metrics", "intervals", "scores", "tokens_per_call", "cut_off", "streaming"),
        "quality",
    ],
    schema.TaskResult: ["bench", "quality"],
    schema.QualityResult: [
        *("rows", "metric", "adapter", "adapter_intervals", "twin", "twin_intervals", "differences"),
        *("difference_intervals", "twin_unlike", "twin_command"),
    ],
}
"""Keys of results.json, which has a format number of its own."""


def same(found, expected, what):
    assert found == expected, CHANGED.format(what=f"{what} ({found}, frozen as {expected})")


# -- the schema -------------------------------------------------------------------------------------------------


def test_the_version_and_the_files():
    same((FORMAT_VERSION, OWN_LORA_VERSION, VOCABULARY_VERSION), (1, 2, 3), "the version")
    same(set(BUNDLE_FILES), {*REQUIRED_FILES, *OWN_FILES, VOCABULARY_FILE, *OPTIONAL_FILES}, "the set of files")
    first = ("adapter_config.json", "ssft_config.json", "adapter_model.safetensors", "streams.safetensors")
    later = (*OWN_FILES, VOCABULARY_FILE)
    same(tuple(name for name in HASHED if name not in later), first, "what weights_sha256 covers, in this order")
    second = (*first[:2], OWN_FILES[0], *first[2:], OWN_FILES[1])
    same(HASHED[:-1], second, "what weights_sha256 of format 2 covers, in this order")
    same(HASHED[-1], VOCABULARY_FILE, "what weights_sha256 of format 3 covers behind that")


@pytest.mark.parametrize(
    ("section", "kind", "frozen"), [("streams", StreamConfig, STREAMS), ("tree", TreeConfig, TREE)]
)
def test_the_settings_and_their_defaults(section, kind, frozen):
    found = {f.name: f.default for f in fields(kind)}
    same(found, frozen, f"section {section} of ssft_config.json")
    assert MISSING not in found.values(), "a field without default cannot be left out by an older bundle"
    same({key: type(value) for key, value in found.items()}, {k: type(v) for k, v in frozen.items()}, "a field's type")


@pytest.mark.parametrize(
    ("config", "frozen"),
    [
        (StreamConfig(3, 2), {"stream_embeddings": (3, 64)}),
        (StreamConfig(3, 2, "rotation"), {}),
        (
            StreamConfig(3, 2, "embedding", 5),
            {"stream_embeddings": (3, 64), "projection_down": (5, 64), "projection_up": (64, 5)},
        ),
        (
            StreamConfig(3, 2, prune_head_rank=5),
            {"stream_embeddings": (3, 64), "prune_down": (5, 64), "prune_up": (64, 5)},
        ),
        (StreamConfig(3, 2, "rotation", 5), {"projection_down": (5, 64), "projection_up": (64, 5)}),
    ],
)
def test_the_tensors_of_the_streams(config, frozen):
    found = {key: tuple(value.shape) for key, value in StreamModules(config, 64).state_dict().items()}
    same(found, frozen, f"streams.safetensors of {config.identifier}, η={config.projection_rank}")


def test_what_is_written_today(tmp_path):
    """Keys as they stand in the files, not as the dataclasses have them."""
    base = save_tiny_base(tmp_path / "base")
    model, tokenizer = load_base(base, dtype="float32")
    adapted = with_adapter(model, StreamConfig(3, 2))
    folder = write_bundle(
        tmp_path / "adapter", adapted, tree=TreeConfig(), base=base_fingerprint(model, tokenizer, base)
    ).path
    same({path.name for path in folder.iterdir()} - set(OPTIONAL_FILES), set(REQUIRED_FILES), "what is written")
    held = json.loads((folder / "ssft_config.json").read_text())
    same(set(held), {"format_version", "streams", "tree", "base"}, "ssft_config.json")
    same(set(held["streams"]), set(STREAMS), "section streams")
    same(set(held["tree"]), set(TREE), "section tree")
    same(set(held["base"]), set(BASE), "section base")
    assert all(type(value) is str for value in held["base"].values())
    dtypes = {str(tensor.dtype) for tensor in read_bundle(folder).stream_weights.values()}
    same(dtypes, {"torch.float32"}, "the type of the streams")


def test_what_is_written_today_of_streams_with_a_lora_of_their_own(tmp_path):
    base = save_tiny_base(tmp_path / "base")
    model, tokenizer = load_base(base, dtype="float32")
    text_lora = read_bundle(BUNDLE).text_lora
    adapted = with_adapter(model, StreamConfig(3, 2, mode="lossless"))
    fingerprint = base_fingerprint(model, tokenizer, base)
    bundle = write_bundle(tmp_path / "a", adapted, tree=TreeConfig(), base=fingerprint, text_lora=text_lora)
    written = {path.name for path in bundle.path.iterdir()} - set(OPTIONAL_FILES)
    same(written, {*REQUIRED_FILES, *OWN_FILES}, "what is written")
    held = json.loads((bundle.path / "ssft_config.json").read_text())
    same(set(held), {"format_version", "streams", "tree", "base"}, "ssft_config.json")
    same((held["format_version"], held["streams"]["mode"]), (2, "lossless"), "its version and mode")
    files = [load_file(bundle.path / name) for name in ("adapter_model.safetensors", "stream_lora.safetensors")]
    assert all(key.startswith("base_model.model.") for tensors in files for key in tensors)
    assert files[0].keys() == text_lora.weights.keys()
    assert all(torch.equal(value, text_lora.weights[key]) for key, value in files[0].items())


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_what_is_written_today_with_a_draft_vocabulary(tmp_path, own):
    base = save_tiny_base(tmp_path / "base")
    model, tokenizer = load_base(base, dtype="float32")
    adapted = with_adapter(model, StreamConfig(3, 2, mode="lossless" if own else "shared"))
    ids, text = torch.tensor([30, 7, 7, 12]), read_bundle(BUNDLE).text_lora if own else None
    fingerprint = base_fingerprint(model, tokenizer, base)
    bundle = write_bundle(
        tmp_path / "a", adapted, tree=TreeConfig(), base=fingerprint, text_lora=text, draft_vocabulary=ids
    )
    written = {path.name for path in bundle.path.iterdir()} - set(OPTIONAL_FILES)
    same(written, {*REQUIRED_FILES, *(OWN_FILES if own else ()), VOCABULARY_FILE}, "what is written")
    same(json.loads((bundle.path / "ssft_config.json").read_text())["format_version"], 3, "its version")
    held = load_file(bundle.path / VOCABULARY_FILE)
    same({key: (str(t.dtype), t.tolist()) for key, t in held.items()}, {"ids": ("torch.int32", [7, 12, 30])}, "the ids")
    assert bundle.draft_vocabulary.tolist() == [7, 12, 30]


def test_the_provenance(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    recipe = load_recipe(BUNDLE / "run.yaml")
    assert isinstance(recipe, Recipe)
    recipe.data.train = str(tmp_path / "rows.jsonl")
    trainer = SimpleNamespace(
        state=SimpleNamespace(log_history=[{"step": 1, "loss": 2.0}], global_step=1),
        args=SimpleNamespace(device=torch.device("cpu"), world_size=1),
    )
    found = provenance(recipe, trainer, {"eval_loss": 1.0}, 1.5, {"train": 1, "validation": 0})
    same({key: type(value) for key, value in found.items()}, PROVENANCE, "provenance.json")
    same(set(found["data"]), {"train", "validation"}, "provenance.json's data")
    same(set(found["data"]["train"]), {"name", "sha256"}, "provenance.json's data from a file")
    same(set(found["libraries"]), set(LIBRARIES), "provenance.json's libraries")
    older = json.loads((BUNDLE / "provenance.json").read_text())
    same({key: type(value) for key, value in older.items()}, PROVENANCE, "the fixture's provenance.json")


def test_the_results():
    same((results.FORMAT, schema.FORMAT), (2, 2), "the format of results.json and of a result")
    found = {kind: [f.name for f in fields(kind)] for kind in RESULTS}
    same(found, RESULTS, "results.json")


# -- the fixture ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The tiny Llama that the fixture was trained over."""
    folder = save_tiny_base(tmp_path_factory.mktemp("format") / "base")
    model, _ = load_base(folder, dtype="float32")
    found = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
    assert found == pytest.approx(EXPECTED["base_sum"], rel=1e-7), (
        "the seeded tiny base has other weights than it had (tests/conftest.py, or torch's random numbers): the "
        "fixture itself is fine, but its token ids need this very base"
    )
    return folder


def check_decodes(folder, base):
    """By the shelf and alone, with and without streams, and by plain peft: the ids of the day it was written."""
    prompts, expected = zip(*((row["prompt"], row["token_ids"]) for row in EXPECTED["rows"]), strict=True)
    count = len(expected[0])
    model = MultiAdapterModel.from_pretrained(base, dtype="float32")
    model.load_adapter(folder, "old")
    found = model.generate(list(prompts), "old", max_new_tokens=count, ignore_eos=True, return_dict=True)
    assert [row["token_ids"] for row in found] == list(expected)
    adapted = load_adapted(folder, str(base), dtype="float32")
    for streaming in (True, False):
        rows = adapted.complete(list(prompts), max_new_tokens=count, ignore_eos=True, speculate=streaming)
        assert [row.token_ids for row in rows] == list(expected)
        if streaming:
            assert sum(row.calls for row in rows) < len(rows) * count - 4, "the streams, trained, guess nothing"
    bare = load_adapted(None, str(base), dtype="float32").complete(list(prompts), max_new_tokens=count, ignore_eos=True)
    assert all(row.token_ids != ids for row, ids in zip(bare, expected, strict=True)), "the adapter changes nothing"


def test_a_bundle_of_version_one_decodes_what_it_decoded(base):
    bundle = read_bundle(BUNDLE)
    assert bundle.weights_sha256 == EXPECTED["weights_sha256"], "results.json of every adapter names this hash"
    assert (bundle.format_version, bundle.stream_config) == (1, StreamConfig(3, 2, "embedding", 2))
    assert bundle.tree == TreeConfig(max_nodes=6, max_batch_nodes=48)
    check_decodes(BUNDLE, base)


def test_a_bundle_of_version_two_decodes_what_it_decoded(base):
    bundle = read_bundle(BUNDLE_2)
    assert bundle.weights_sha256 == SHA256_2, "results.json of every adapter names this hash"
    assert (bundle.format_version, bundle.stream_config) == (2, StreamConfig(3, 2, mode="lossless"))
    assert [(part.rows, part.config["r"]) for part in bundle.loras] == [("all", 2), ("streams", 1)]
    assert {tensor.dtype for tensor in bundle.loras[1].weights.values()} == {torch.float16}
    check_decodes(BUNDLE_2, base)


def test_a_bundle_of_version_three_decodes_what_it_decoded(base):
    bundle = read_bundle(BUNDLE_3)
    assert bundle.weights_sha256 == SHA256_3, "results.json of every adapter names this hash"
    assert (bundle.format_version, bundle.stream_config) == (3, StreamConfig(3, 2, mode="lossless"))
    assert [(part.rows, part.config["r"]) for part in bundle.loras] == [("all", 2), ("streams", 1)]
    ids = bundle.draft_vocabulary
    assert (len(ids), ids.dtype, ids[:2].tolist()) == (40, torch.int64, [0, 1])
    check_decodes(BUNDLE_3, base)


@pytest.mark.parametrize("folder", [BUNDLE, BUNDLE_2, BUNDLE_3], ids=["1", "2", "3"])
def test_plain_peft_still_decodes_it(base, folder):
    row = EXPECTED["rows"][0]
    model = PeftModel.from_pretrained(load_base(base, dtype="float32")[0], str(folder)).eval()
    ids = torch.tensor([row["prompt"]])
    settings = {"max_new_tokens": len(row["token_ids"]), "do_sample": False, "eos_token_id": None}
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    assert output[0, ids.shape[1] :].tolist() == row["token_ids"]


def test_an_early_bundle_without_the_later_keys_and_files_decodes_the_same(base, tmp_path):
    folder = shutil.copytree(BUNDLE, tmp_path / "early")
    held = json.loads((folder / "ssft_config.json").read_text())
    for section, keys in OPTIONAL.items():
        for key in keys:
            held[section].pop(key, None)
    (folder / "ssft_config.json").write_text(json.dumps(held))
    for name in OPTIONAL_FILES:
        (folder / name).unlink(missing_ok=True)
    bundle = read_bundle(folder)
    assert bundle.stream_config.mode == STREAMS["mode"]
    tree = bundle.tree
    assert (tree.max_stream_nodes, tree.max_batch_nodes, tree.budget, tree.lookup) == (0, 0, "fixed", False)
    assert (tree.prune_below, tree.prune_keep, bundle.stream_config.prune_head_rank) == (0, 0, 0)
    check_decodes(folder, base)


def test_the_fixture_has_every_frozen_key():
    """Else it would not show that today's bundles can be read."""
    held = json.loads((BUNDLE / "ssft_config.json").read_text())
    assert set(held["streams"]) == set(STREAMS) - LATER
    assert (set(held["tree"]), set(held["base"])) == (set(TREE) - LATER, set(BASE))
    assert {path.name for path in BUNDLE.iterdir()} == {*REQUIRED_FILES, "run.yaml", "provenance.json", "README.md"}
    assert {path.name for path in BUNDLE_2.iterdir()} - set(OWN_FILES) == {path.name for path in BUNDLE.iterdir()}
    assert {path.name for path in BUNDLE_3.iterdir()} - {VOCABULARY_FILE} == {path.name for path in BUNDLE_2.iterdir()}
    fixtures = (BUNDLE, BUNDLE_2, BUNDLE_3)
    assert all(sum(path.stat().st_size for path in folder.iterdir()) < 32_000 for folder in fixtures)


def test_its_recipe_still_reads():
    recipe = load_recipe(BUNDLE / "run.yaml")
    assert (recipe.lora.r, recipe.training["num_streams"], recipe.tree.max_nodes) == (2, 3, 6)


def test_streams_load_bit_for_bit():
    bundle = read_bundle(BUNDLE)
    modules = load_stream_modules(bundle, 64)
    assert {key: value.dtype for key, value in modules.state_dict().items()} == dict.fromkeys(
        ("stream_embeddings", "projection_down", "projection_up"), torch.float32
    )
    assert all(torch.equal(value, bundle.stream_weights[key]) for key, value in modules.state_dict().items())


@pytest.mark.parametrize("version", [0, 4, 99])
def test_other_versions_are_refused_by_name(tmp_path, version):
    folder = shutil.copytree(BUNDLE, tmp_path / "other")
    change_json(folder, "ssft_config.json", format_version=version)
    with pytest.raises(
        BundleError, match=f"format_version is {version}, this ssft reads 1, 2 and 3; a newer bundle needs a newer"
    ):
        read_bundle(folder)
