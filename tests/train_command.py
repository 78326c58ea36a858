"""`ssft train` on a tiny base and a few rows: called in this process, or as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from tiny_base import rows, save_rows, save_tiny_base

from ssft.cli.main import cli

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


def training_files(tmp_path):
    """A base folder, training and validation rows, and a place for adapters."""
    save_tiny_base(tmp_path / "base")
    save_rows(tmp_path / "train.jsonl", rows(24))
    save_rows(tmp_path / "validation.jsonl", rows(4, start=50))
    return tmp_path


def words(files, output, *extra):
    """What stands behind `ssft`."""
    return [
        "train",
        "quickstart",
        f"base={files / 'base'}",
        f"data.train={files / 'train.jsonl'}",
        f"data.validation={files / 'validation.jsonl'}",
        *SETTINGS,
        *extra,
        "--output",
        str(files / output),
    ]


def invoke(files, output, *extra, code=0):
    """The command in this process, which ends with an exit code and no traceback."""
    done = CliRunner().invoke(cli, words(files, output, *extra))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def command(files, output, *extra):
    """The command line of a process."""
    return [sys.executable, "-m", "ssft", *words(files, output, *extra)]


def environment():
    root = Path(__file__).resolve().parents[1]
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}


def run(arguments, **more):
    """A process to its end."""
    done = subprocess.run(arguments, capture_output=True, text=True, env={**environment(), **more}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(folder):
    history = json.loads((folder / "provenance.json").read_text())["history"]
    return {e["step"]: (e["loss"], e["loss_main"], e["loss_stream_3"]) for e in history if "loss_main" in e}
