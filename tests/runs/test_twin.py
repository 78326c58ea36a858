"""The one rule for twins: in what the training of a plain LoRA was not the adapter's."""

import json
from dataclasses import replace

import pytest
from adapter_folders import peft_folder
from conftest import tiny_llama

from ssft.bundle.read import read_bundle
from ssft.runs.provenance import told_by
from ssft.runs.twin import differences, training_of

RUN = """
data:
  train: /data/here/rows.jsonl
  validation: /data/here/validation.jsonl
lora:
  r: 4
  target_modules: [q_proj, v_proj]
training:
  seed: 1
  num_streams: 4
  logging_steps: 10
"""
ROWS = {"name": "rows.jsonl", "sha256": "12" * 32}
START = {"name": "start", "weights_sha256": "ab" * 32}


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A plain LoRA, which stands for the adapter, too: the rule reads run.yaml and provenance.json alone."""
    return read_bundle(peft_folder(tmp_path_factory.mktemp("lora") / "lora", tiny_llama()))


def write_run(folder, data=ROWS, steps=30, start=None, **changes):
    """What a run leaves in its folder beside the weights."""
    text = RUN
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir()
    (folder / "run.yaml").write_text(text)
    told = {"data": {"train": data}, "steps": steps, **({} if start is None else {"adapter": start})}
    (folder / "provenance.json").write_text(json.dumps(told))
    return folder


def unlike(lora, adapter, twin, sha256="", **changes):
    bundle = replace(lora, path=adapter, provenance=told_by(adapter), **changes)
    # A result file keeps what is told of the twin.
    told = json.loads(json.dumps(training_of(twin, told_by(twin))))
    return differences(bundle, told, sha256)


@pytest.fixture
def adapter(tmp_path):
    return write_run(tmp_path / "adapter")


def test_a_twin_may_differ_in_folders_streams_and_reports(lora, adapter, tmp_path):
    twin = write_run(
        tmp_path / "twin",
        folders=("/data/here", "/other"),
        streams=("num_streams: 4", "num_streams: 2"),
        logging=("logging_steps: 10", "logging_steps: 5\n  measure_steps: 7"),
        order=("q_proj, v_proj", "v_proj, q_proj"),
    )
    assert unlike(lora, adapter, twin) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {**ROWS, "name": "more.jsonl"}}, ["trained on more.jsonl"]),
        ({"data": {**ROWS, "sha256": "34" * 32}}, ["trained on rows.jsonl"]),
        ({"data": None}, ["trained on data that are not told"]),
        ({"steps": 40}, ["40 steps"]),
        ({"start": START}, ["began from other values"]),
        (
            {"rank": ("r: 4", "r: 8"), "seed": ("seed: 1", "max_steps: 3")},
            ["lora.r (4, 8)", "training.seed (1, None)", "training.max_steps (None, 3)"],
        ),
        ({"base": ("\ndata:", "\nbase: owner/name\ndata:")}, ["base ('smollm2-135m', 'owner/name')"]),
    ],
)
def test_every_other_difference_is_told(lora, adapter, tmp_path, changes, expected):
    assert unlike(lora, adapter, write_run(tmp_path / "other", **changes)) == expected


@pytest.mark.parametrize("content", [None, "- no recipe", "trainning: {}"])
@pytest.mark.parametrize("whose", ["adapter", "twin"])
def test_settings_that_cannot_be_read_are_told(lora, adapter, tmp_path, whose, content):
    twin = write_run(tmp_path / "twin")
    file = tmp_path / whose / "run.yaml"
    file.unlink() if content is None else file.write_text(content)
    assert unlike(lora, adapter, twin) == ["settings that are not told"]


def test_a_folder_that_tells_nothing_is_no_twin(lora, adapter, tmp_path):
    (tmp_path / "empty").mkdir()
    found = ["trained on data that are not told", "settings that are not told"]
    assert unlike(lora, adapter, tmp_path / "empty")[:1] == found[:1]
    assert unlike(lora, adapter, tmp_path / "empty")[-1:] == found[1:]
    assert unlike(lora, tmp_path / "empty", tmp_path / "empty") == found


@pytest.mark.parametrize(("own", "did"), [(False, "began from"), (True, "keeps")])
def test_the_lora_that_an_adapter_is_made_of_is_told_as_such(lora, tmp_path, own, did):
    adapter = write_run(tmp_path / "adapter", start=START)
    twin = write_run(tmp_path / "twin", rank=("r: 4", "r: 8"))
    expected = [f"it is the plain LoRA that the adapter {did}, trained on rows.jsonl"]
    assert unlike(lora, adapter, twin, START["weights_sha256"], loras=lora.loras * (1 + own)) == expected
