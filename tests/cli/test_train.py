"""Whole runs through the command line on a tiny base: bundle, resume after a kill, two processes, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_base import rows, save_rows, save_tiny_base
from transformers import BloomConfig, BloomForCausalLM

from ssft.bundle.format import BUNDLE_FILES, DRAFT_VOCABULARY, RESULTS, STREAM_LORA_CONFIG, STREAM_LORA_WEIGHTS
from ssft.bundle.read import read_bundle

SETTINGS = [
    "training.num_streams=3",
    "training.num_msa_layers=2",
    "training.per_device_train_batch_size=2",
    "training.logging_steps=1",
    "training.learning_rate=1e-2",
    "training.disable_tqdm=true",
    "lora.r=4",
    "dtype=float32",
]


@pytest.fixture
def files(tmp_path):
    """A base folder, training and validation rows, and a place for adapters."""
    save_tiny_base(tmp_path / "base")
    save_rows(tmp_path / "train.jsonl", rows(24))
    save_rows(tmp_path / "validation.jsonl", rows(4, start=50))
    return tmp_path


def command(files, output, *extra, recipe="quickstart"):
    return [
        sys.executable,
        "-m",
        "ssft",
        "train",
        recipe,
        f"base={files / 'base'}",
        f"data.train={files / 'train.jsonl'}",
        f"data.validation={files / 'validation.jsonl'}",
        *SETTINGS,
        *extra,
        "--output",
        str(files / output),
    ]


def environment():
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}


def run(arguments, check=True):
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=False)
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(folder):
    history = json.loads((folder / "provenance.json").read_text())["history"]
    return {e["step"]: (e["loss"], e["loss_main"], e["loss_stream_3"]) for e in history if "loss_main" in e}


def test_train_writes_a_bundle_and_cleans_up(files):
    done = run(command(files, "adapter", "training.max_steps=2", "--json"))
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
    steps = ["training.max_steps=10", "training.save_steps=3"]
    run(command(files, "whole", *steps))
    process = subprocess.Popen(
        command(files, "killed", *steps),
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
    refused = run(command(files, "killed", *steps), check=False)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    run(command(files, "killed", *steps, "--resume"))
    assert losses(files / "killed") == losses(files / "whole")
    assert len(losses(files / "whole")) == 10
    for name in ("adapter_model.safetensors", "streams.safetensors"):
        whole, resumed = load_file(files / "whole" / name), load_file(files / "killed" / name)
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(files):
    script = files / "train_and_save.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from ssft.runs.prepare import prepare\n"
        "from ssft.recipes.recipe import load_recipe\n"
        "from ssft.runs.train import build_trainer\n"
        "from ssft.runs.train import leave_process_group\n"
        f"recipe = load_recipe('quickstart', {[*command(files, 'x')[5:-2], 'training.max_steps=3']!r})\n"
        f"run = prepare(recipe, Path({str(files / 'two')!r}))\n"
        "trainer = build_trainer(run)\n"
        "trainer.train()\n"
        "rank = trainer.args.process_index\n"
        "assert trainer.args.world_size == 2\n"
        "weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}\n"
        f"torch.save(weights, Path({str(files)!r}) / f'rank{{rank}}.pt')\n"
        "leave_process_group()\n"  # at an exit within the group its threads may abort the process
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run([*launch, str(script)])
    first, second = (torch.load(files / f"rank{r}.pt") for r in (0, 1))
    assert first.keys() == second.keys()
    assert any("stream_embeddings" in name for name in first)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.slow
def test_the_command_itself_runs_in_two_processes(files):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    run([*launch, *command(files, "both", "training.max_steps=2")[2:]])
    assert read_bundle(files / "both").provenance["processes"] == 2


def test_dry_run_shows_everything_and_trains_nothing(files):
    done = run(command(files, "adapter", "--dry-run", "--json"))
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
    done = run(command(files, "adapter", *extra), check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
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
    done = run(command(files, "adapter"), check=False)
    assert done.returncode == 2
    assert message in done.stderr.replace(",", "")
    assert "Traceback" not in done.stderr


def test_an_unsupported_architecture_exits_2(files):
    BloomForCausalLM(BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=99)).save_pretrained(files / "base")
    done = run(command(files, "adapter"), check=False)
    assert done.returncode == 2
    assert "architecture 'bloom' has no stream support" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_that_is_something_else_is_left_alone(files):
    (files / "mine").mkdir()
    (files / "mine" / "thesis.txt").write_text("years of work")
    done = run(command(files, "mine"), check=False)
    assert done.returncode == 2
    assert "exists and is no adapter" in done.stderr
    assert (files / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_accelerate_launch_runs_the_recipe_in_two_processes(files):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"]
    arguments = [*launch, *command(files, "launched", "training.max_steps=2")[2:]]
    done = subprocess.run(
        arguments, capture_output=True, text=True, env={**environment(), "ACCELERATE_USE_CPU": "true"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_bundle(files / "launched").provenance["processes"] == 2
