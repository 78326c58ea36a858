"""`ssft train` that is killed, and `ssft train` in two processes."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from train_command import command, environment, losses, run, training_files

from ssft.bundle.read import read_bundle


@pytest.fixture
def files(tmp_path):
    return training_files(tmp_path)


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


@pytest.mark.slow
def test_accelerate_launch_runs_the_recipe_in_two_processes(files):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m"]
    arguments = [*launch, *command(files, "launched", "training.max_steps=2")[2:]]
    done = subprocess.run(
        arguments, capture_output=True, text=True, env={**environment(), "ACCELERATE_USE_CPU": "true"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_bundle(files / "launched").provenance["processes"] == 2
