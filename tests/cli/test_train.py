"""Whole runs through the command line on a tiny base: bundle, table, resume after a kill, dry run, bad input."""

import json
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file
from train_command import command, environment, invoke, losses, run, training_files
from transformers import BloomConfig, BloomForCausalLM

from ssft.bundle.format import BUNDLE_FILES, DRAFT_VOCABULARY, RESULTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS
from ssft.bundle.read import read_bundle


@pytest.fixture
def files(tmp_path):
    return training_files(tmp_path)


def test_train_writes_a_bundle_and_cleans_up(files):
    done = invoke(files, "adapter", "training.max_steps=2", "--json")
    facts = json.loads(done.stdout)
    assert facts["metrics"]["eval_chain_tokens_per_call"] >= 1
    bundle = read_bundle(files / "adapter")
    not_written = {RESULTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS, DRAFT_VOCABULARY}
    assert {p.name for p in bundle.path.iterdir()} == set(BUNDLE_FILES) - not_written
    assert bundle.stream_config.num_streams == 3
    assert bundle.base["id"] == "base"
    assert bundle.base_name == str(files / "base")
    assert not (files / "adapter.run").exists()


def test_people_see_one_table_and_what_to_type_next(files):
    """In a process of its own, whose libraries write where they would for people."""
    done = run(command(files, "adapter", "training.max_steps=2", "training.measure_steps=1"))
    data, table = done.stderr.split("quickstart: 2 steps of 2 rows")
    assert data.startswith("train: 24 rows of ")
    lines = table.splitlines()
    assert lines[2].split()[:3] == ["step", "loss", "main"]
    assert sum("tokens per call" in line for line in lines) == 2
    assert max(map(len, lines)) <= 80
    assert "{" not in done.stderr
    assert "%" not in done.stderr
    assert f"ssft verify {files / 'adapter'} --dtype float32" in done.stdout


def test_killed_run_resumes_to_the_same_losses(files):
    """The killed one is a process; those before and after it run in this one, with as many threads."""
    steps = ["training.max_steps=10", "training.save_steps=3"]
    process = subprocess.Popen(
        command(files, "killed", *steps, "--threads", "1"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = files / "killed.run" / "checkpoint-3" / "complete"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (files / "killed").exists(), "the run ended before it was killed; give it more steps"
    assert "--resume" in invoke(files, "killed", *steps, code=2).stderr
    threads = torch.get_num_threads()
    try:
        for output, more in (("whole", []), ("killed", ["--resume"])):
            invoke(files, output, *steps, "--threads", "1", *more)
    finally:
        torch.set_num_threads(threads)
    assert losses(files / "killed") == losses(files / "whole")
    assert len(losses(files / "whole")) == 10
    for name in ("adapter_model.safetensors", "streams.safetensors"):
        whole, resumed = load_file(files / "whole" / name), load_file(files / "killed" / name)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_dry_run_shows_everything_and_trains_nothing(files):
    done = invoke(files, "adapter", "--dry-run", "--json")
    facts = json.loads(done.stdout)
    text = "".join(part["token"] for part in facts["example"] if part["loss"])
    assert text.endswith("done.<eos>")
    assert not any(part["loss"] for part in facts["example"][:4])
    assert facts["parameters"]["streams"] == 3 * 64
    assert facts["rows"] == {"train": 24, "validation": 4}
    assert facts["estimate"]["steps"] > 0
    advice = {entry["setting"]: entry for entry in facts["advice"]}
    assert advice["num_msa_layers"]["now"] == 2
    assert advice["num_msa_layers"]["advised"] == "1 of 4"
    assert not (files / "adapter").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["training.num_streams=99"], "γ must lie between 1 and 16"),
        (["training.num_msa_layers=9"], "the base has 4 layers"),
        (["training.num_strems=2"], "num_streams"),
        (["base=smollm2-135n"], "smollm2-135m"),
        (["training.max_length=12"], "12"),
    ],
)
def test_bad_settings_exit_2_without_traceback(files, extra, message):
    done = invoke(files, "adapter", *extra, code=2)
    assert message in done.stderr
    assert not (files / "adapter").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"prompt": "a"}\n', "completion"),
        ('{"prompt": "a", "completion": "' + "b" * 5000 + '"}\n', "raise training.max_length"),
    ],
)
def test_bad_data_exits_2(files, content, message):
    (files / "train.jsonl").write_text(content)
    done = invoke(files, "adapter", code=2)
    assert message in done.stderr.replace(",", "")


def test_an_unsupported_architecture_exits_2(files):
    BloomForCausalLM(BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=99)).save_pretrained(files / "base")
    done = invoke(files, "adapter", code=2)
    assert "architecture 'bloom' has no stream support" in done.stderr


def test_an_output_that_is_something_else_is_left_alone(files):
    (files / "mine").mkdir()
    (files / "mine" / "thesis.txt").write_text("years of work")
    done = invoke(files, "mine", code=2)
    assert "exists and is no adapter" in done.stderr
    assert (files / "mine" / "thesis.txt").read_text() == "years of work"
