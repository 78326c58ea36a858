"""`ssft train` in two processes, by either launcher."""

import sys

import pytest
import torch
from train_command import run, training_files, words

from ssft.bundle.read import read_bundle


@pytest.fixture
def files(tmp_path):
    return training_files(tmp_path)


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
