"""Interrupted runs and finished results: what a run goes on with, says, and leaves alone."""

import json
import shlex
import shutil

import pytest
from click.testing import CliRunner
from tiny_base import rows, save_rows, save_tiny_base

from ssft.bundle.format import RESULTS
from ssft.card.results import About, Results, results_text
from ssft.cli.train import command
from ssft.errors import ConfigError
from ssft.recipes.recipe import load_recipe
from ssft.runs import methods
from ssft.runs.prepare import prepare
from ssft.runs.train import train
from ssft.training.callbacks import MarkComplete, seconds_until

SETTINGS = [
    "dtype=float32", "lora.r=4", "training.num_streams=2", "training.num_msa_layers=1", "training.logging_steps=1",
    "training.per_device_train_batch_size=2", "training.learning_rate=1e-2", "training.disable_tqdm=true",
    "training.save_steps=1", "training.save_total_limit=20", "training.train_sampling_strategy=group_by_length",
]  # fmt: skip
STEPS = 11
"""Four an epoch."""


def words(shelf, *extra):
    files = [f"base={shelf / 'base'}", f"data.train={shelf / 'train.jsonl'}"]
    files.append(f"data.validation={shelf / 'validation.jsonl'}")
    return [str(word) for word in ("quickstart", *files, *SETTINGS, f"training.max_steps={STEPS}", *extra)]


def prepared(shelf, output, *extra):
    name, *overrides = words(shelf, *extra)
    return prepare(load_recipe(name, overrides), output, "cpu")


def invoke(*arguments):
    return CliRunner().invoke(command, [str(word) for word in arguments])


def stop_at(monkeypatch, step):
    """Ctrl-C as soon as the checkpoint of a step is whole."""
    save = MarkComplete.on_save

    def on_save(self, args, state, control, **keywords):
        save(self, args, state, control, **keywords)
        if state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(MarkComplete, "on_save", on_save)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A base, data, and all checkpoints of a run, `whole.run`, which was killed before it wrote its result."""
    folder = tmp_path_factory.mktemp("shelf")
    save_tiny_base(folder / "base")
    save_rows(folder / "train.jsonl", rows(8, start=6))
    save_rows(folder / "validation.jsonl", rows(2, start=50))
    run = prepared(folder, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, STEPS)
        with pytest.raises(KeyboardInterrupt):
            train(run, folder / "whole")
    return folder


def cut(shelf, folder, step):
    """The same run as it was when the checkpoint of a step had been written."""
    run = shutil.copytree(shelf / "whole.run", folder / "cut.run")
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(run / f"checkpoint-{later}")
    return folder / "cut"


@pytest.fixture
def finished(shelf, tmp_path):
    """A finished adapter that was measured."""
    output = tmp_path / "done"
    train(prepared(shelf, output, "training.max_steps=1"), output)
    (output / RESULTS).write_text(results_text(Results(About())))
    return output


def losses(history):
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


@pytest.mark.parametrize("step", [3, 4, 5, 6, 9])
def test_a_run_resumed_in_any_epoch_takes_the_same_batches(shelf, tmp_path, step):
    state = json.loads((shelf / "whole.run" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    whole = losses(state["log_history"])
    assert len(set(whole.values())) == STEPS
    output = cut(shelf, tmp_path, step)
    trained = train(prepared(shelf, output), output, resume=True)
    assert losses(trained.provenance["history"]) == whole


@pytest.mark.parametrize("step", [6, STEPS])
def test_the_seconds_of_all_legs_count(shelf, tmp_path, step):
    seconds = [seconds_until(shelf / "whole.run" / f"checkpoint-{number}") for number in range(1, STEPS + 1)]
    assert 0 < seconds[0] < seconds[5] < seconds[-1] < 600
    output = cut(shelf, tmp_path, step)
    (tmp_path / "cut.run" / f"checkpoint-{step}" / "complete").write_text("1000.0")
    trained = train(prepared(shelf, output), output, resume=True)
    assert 1000 <= trained.provenance["train_seconds"] < 1600


def test_an_interrupted_run_says_how_to_go_on(shelf, tmp_path, monkeypatch):
    output = tmp_path / "my adapter"
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        said = invoke(*words(shelf), "--output", output, "--device", "cpu")
    assert said.exit_code == 1
    assert f"The last whole checkpoint is {output}.run/checkpoint-2. Go on from it with\n" in said.stderr
    line = next(line for line in said.stderr.splitlines() if line.startswith("  ssft train quickstart "))
    again = shlex.split(line)
    assert again == ["ssft", "train", *words(shelf), "--output", str(output), "--device", "cpu", "--resume"]
    assert invoke(*again[2:]).exit_code == 0
    assert json.loads((output / "provenance.json").read_text())["steps"] == STEPS


def test_a_run_that_is_interrupted_before_its_first_checkpoint_says_so(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(MarkComplete, "on_save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    said = invoke(*words(shelf), "--output", tmp_path / "out")
    assert "No checkpoint was written yet" in said.stderr
    assert "ssft train" not in said.stderr


def test_a_resumed_run_with_other_settings_names_them(shelf, tmp_path):
    output = cut(shelf, tmp_path, 2)
    changes = ["lora.r=8", "training.seed=3", "save_dtype=float16"]
    message = (
        r"cut\.run/run\.yaml differs from what is given in save_dtype \('auto' then, 'float16' now\), "
        r"lora\.r \(4 then, 8 now\), training\.seed \(not given then, 3 now\); resume with the same"
    )
    with pytest.raises(ConfigError, match=message):
        train(prepared(shelf, output, *changes), output, resume=True)


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--resume"]])
def test_a_finished_result_is_not_replaced_unasked(shelf, finished, monkeypatch, options):
    monkeypatch.setattr(methods, "load_base", None)
    before = (finished / "adapter_model.safetensors").read_bytes()
    said = invoke(*words(shelf), "--output", finished, *options)
    assert isinstance(said.exception, ConfigError)
    assert "done holds a finished adapter" in str(said.exception)
    assert "--force" in str(said.exception)
    assert (finished / "adapter_model.safetensors").read_bytes() == before
    assert (finished / RESULTS).exists()


def test_force_replaces_a_finished_result_and_an_interrupted_run_of_it_goes_on(shelf, finished, monkeypatch):
    before = (finished / "adapter_model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        invoke(*words(shelf), "--output", finished, "--force")
    assert (finished / "adapter_model.safetensors").read_bytes() == before
    assert invoke(*words(shelf), "--output", finished, "--resume").exit_code == 0
    assert (finished / "adapter_model.safetensors").read_bytes() != before
    assert not (finished / RESULTS).exists()
