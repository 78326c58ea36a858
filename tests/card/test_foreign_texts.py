"""What else lies in a foreign folder (card, recipe, results, picture): bounded, plain data, never followed outside."""

import json
import os
import shutil
import time

import pytest
from pickles import pickled
from shelf import shared_shelf
from spoiling import header

from ssft.bundle.folder import MAX_JSON, AdapterFiles
from ssft.bundle.read import read_bundle
from ssft.card.results import read_results
from ssft.card.write import write_card
from ssft.errors import BundleError, SSFTError
from ssft.recipes.recipe import load_recipe

HISTORY = [{"step": step, "loss_main": 3.0 - step / 10} for step in range(1, 5)]


@pytest.fixture
def folder(tmp_path):
    """A good bundle of one's own whose training has a history to draw."""
    folder = shutil.copytree(shared_shelf("llama").paths["projected"], tmp_path / "foreign")
    (folder / "provenance.json").write_text(json.dumps({"history": HISTORY}))
    return folder


def spoil(folder, name, how, marker):
    path = folder / name
    path.unlink(missing_ok=True)
    if how == "link":
        (folder.parent / "precious").write_text("precious")
        path.symlink_to(folder.parent / "precious")
    elif how == "terabyte":
        path.touch()
        os.truncate(path, 2**40)
    elif how == "pickle":
        path.write_bytes(pickled(marker))
    else:
        os.mkfifo(path)


OUTSIDE, LARGE, SPECIAL = (
    "a link to .*precious, outside the adapter folder",
    "1,099,511,627,776 bytes",
    "no regular file",
)
WRITTEN = ""
OUTCOMES = {
    "README.md": {"link": OUTSIDE, "terabyte": LARGE, "pickle": "not readable as text", "pipe": SPECIAL},
    "results.json": {"link": OUTSIDE, "terabyte": LARGE, "pickle": "not readable as JSON", "pipe": SPECIAL},
    "provenance.json": {"link": OUTSIDE, "terabyte": LARGE, "pickle": "not readable as JSON", "pipe": SPECIAL},
    "run.yaml": {"link": OUTSIDE, "terabyte": LARGE, "pickle": "not readable as text", "pipe": SPECIAL},
    # It is drawn anew.
    "training.png": dict.fromkeys(("link", "terabyte", "pickle", "pipe"), WRITTEN),
}


@pytest.mark.parametrize(
    ("name", "how", "outcome"), [(name, how, text) for name, ways in OUTCOMES.items() for how, text in ways.items()]
)
def test_a_card_is_written_in_the_folder_or_not_at_all(folder, tmp_path, name, how, outcome):
    """Whatever stands in its place, nothing outside is read or written, nothing executed, no terabyte read."""
    spoil(folder, name, how, tmp_path / "marker")
    others = {path: path.read_bytes() for path in folder.iterdir() if path.name != name}
    begin = time.perf_counter()
    if outcome == WRITTEN:
        assert write_card(read_bundle(folder))
        assert "precious" not in (folder / "README.md").read_text()
        if name == "training.png":
            assert not (folder / name).is_symlink()
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(BundleError, match=f"{name}: {outcome}"):
            write_card(read_bundle(folder))
        assert {path: path.read_bytes() for path in folder.iterdir() if path.name != name} == others
    assert time.perf_counter() - begin < 20
    assert not (tmp_path / "marker").exists()
    if how == "link":
        assert (tmp_path / "precious").read_text() == "precious"


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"steps": %s}', "provenance.json: steps='10+', expected a number"),
        ('{"device": "cpu", "processes": -%s}', "provenance.json: processes='-10+', expected a number"),
        ('{"history": %s}', "provenance.json: history is no list"),
        ('{"history": [%s]}', "provenance.json: history is no list of objects"),
        ('{"history": [{"step": %s, "loss_main": 1}, {"step": 2, "loss_main": %s}]}', ""),
        ('{"metrics": {"eval_acceptance_1": %s, "eval_chain_tokens_per_call": %s}}', ""),
        ('{"metrics": %s, "data": %s, "libraries": %s, "device": %s, "ssft": %s}', ""),
    ],
)
def test_an_integer_beyond_any_float_in_the_provenance(folder, content, message):
    (folder / "provenance.json").write_text(content.replace("%s", HUGE))
    if message:
        with pytest.raises(BundleError, match=message):
            write_card(read_bundle(folder))
    else:
        assert write_card(read_bundle(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 3}', "results.json: its format is 3, this ssft reads 2"),
        ('{"format": 2, "format": 2}', "'format' stands twice"),
        ("[]", "holds a list, expected an object"),
        ('{"format": 2, "about": []}', "'about' is missing or no object"),
        ('{"format": 2, "about": {"run": "rm"}}', r"about\.run is unknown"),
        ('{"format": 2, "results": {}}', "results is no list"),
        ('{"format": 2, "results": [{"kind": "run"}]}', r"results\[0\] is no result of one adapter"),
        ('{"format": 1, "about": {"license": "MIT; see below"}}', "license 'MIT; see below': expected an id"),
    ],
)
def test_damaged_results_are_named(folder, content, message):
    (folder / "results.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        read_results(read_bundle(folder))


@pytest.mark.parametrize("name", ["README.md", "run.yaml"])
def test_texts_are_bounded_and_stay_inside(folder, tmp_path, name):
    (folder / name).write_text("héllo")
    assert AdapterFiles(folder).text(name) == "héllo"
    (folder / name).write_bytes(b"\xff")
    with pytest.raises(BundleError, match=f"{name}: not readable as text"):
        AdapterFiles(folder).text(name)
    os.truncate(folder / name, MAX_JSON + 1)
    with pytest.raises(BundleError, match=f"{name}: 16,777,217 bytes, but no adapter needs"):
        AdapterFiles(folder).text(name)
    spoil(folder, name, "link", tmp_path / "marker")
    with pytest.raises(BundleError, match=f"{name}: a link to .*precious, outside the adapter folder"):
        AdapterFiles(folder).text(name)


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir", "!!python/module:os"],
)
@pytest.mark.parametrize("key", ["base", "name", "training"])
def test_a_recipe_of_a_foreign_folder_runs_nothing(folder, tmp_path, tag, key):
    marker = tmp_path / "marker"
    (folder / "run.yaml").write_text(f"{key}: {tag} [{json.dumps(str(marker))}]\n")
    with pytest.raises(SSFTError, match=r"run\.yaml"):
        load_recipe(folder / "run.yaml")
    assert not marker.exists()


@pytest.mark.parametrize("key", ["base", "training", "colour", "lora"])
def test_a_recipe_that_multiplies_itself_ends_soon(folder, key):
    """Aliases of aliases: some hundred bytes that stand for 10^9 values."""
    lines = [f"{key}:", "  - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (folder / "run.yaml").write_text("\n".join(lines) + "\n")
    begin = time.perf_counter()
    with pytest.raises(SSFTError, match=r"run\.yaml, line \d+: invalid YAML: with its aliases it has more"):
        load_recipe(folder / "run.yaml")
    assert time.perf_counter() - begin < 5


def test_a_recipe_that_contains_itself_is_refused(folder):
    (folder / "run.yaml").write_text("base: &a [*a]\n")
    with pytest.raises(SSFTError, match=r"run\.yaml, line \d+: invalid YAML: with its aliases it has more"):
        load_recipe(folder / "run.yaml")


def test_a_recipe_of_a_terabyte_is_not_read(folder):
    os.truncate(folder / "run.yaml", 2**40)
    with pytest.raises(SSFTError, match=r"run\.yaml: 1,099,511,627,776 bytes"):
        load_recipe(folder / "run.yaml")


def test_a_recipe_nested_without_end_is_named(folder):
    (folder / "run.yaml").write_text("base: " + "[" * 5_000)
    with pytest.raises(SSFTError, match=r"run\.yaml: cannot be read"):
        load_recipe(folder / "run.yaml")


def test_honest_aliases_are_read(folder):
    text = "name: &n x\nbase: *n\ndata: {train: quickstart}\n"
    (folder / "run.yaml").write_text(text)
    assert load_recipe(folder / "run.yaml").base == "x"


@pytest.mark.parametrize("size", [2**63, 2**40, 17 * 2**20])
def test_a_header_is_bounded_before_it_is_read(folder, size):
    (folder / "streams.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    os.truncate(folder / "streams.safetensors", 2**20)
    with pytest.raises(BundleError, match=r"no valid safetensors file .header too large"):
        AdapterFiles(folder).shapes("streams.safetensors")


def test_what_grows_while_it_is_read_is_refused(folder, monkeypatch):
    """The size that was looked at is the size that is read."""
    status = os.fstat
    header("streams.safetensors", "{}", 64)(folder)

    def smaller(descriptor):
        found = list(status(descriptor))
        found[6] = 10
        return os.stat_result(found)

    monkeypatch.setattr("ssft.bundle.folder.os.fstat", smaller)
    with pytest.raises(BundleError, match=r"streams\.safetensors: changed while it was read"):
        AdapterFiles(folder).read("streams.safetensors")
