"""`ssft train` that is killed, and `ssft train` in two processes."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from train_command import command, environment, invoke, losses, run, training_files, words

from ssft.bundle.read import read_bundle


@pytest.fixture
def files(tmp_path):
    return training_files(tmp_path)


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


# The command as `python -m ssft` runs it, each of whose processes then saves the weights that it has at the end.
WATCHED = """
import sys, torch
from pathlib import Path
from ssft.cli.main import main
from ssft.runs import train

def watched(run, build=train.build_trainer):
    trainer = build(run)
    take_steps = trainer.train

    def steps(*arguments, **options):
        take_steps(*arguments, **options)
        assert trainer.args.world_size == 2
        weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
        torch.save(weights, Path(__file__).parent / f"rank{trainer.args.process_index}.pt")

    trainer.train = steps
    return trainer

train.build_trainer = watched
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_end_with_equal_weights_and_one_adapter(files):
    (files / "watched.py").write_text(WATCHED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run([*launch, str(files / "watched.py"), *words(files, "both", "training.max_steps=3")])
    first, second = (torch.load(files / f"rank{r}.pt") for r in (0, 1))
    assert first.keys() == second.keys()
    assert any("stream_embeddings" in name for name in first)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert read_bundle(files / "both").provenance["processes"] == 2


@pytest.mark.slow
def test_accelerate_launch_runs_the_recipe_in_two_processes(files):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "ssft"]
    run([*launch, *words(files, "launched", "training.max_steps=2")], ACCELERATE_USE_CPU="true")
    assert read_bundle(files / "launched").provenance["processes"] == 2
