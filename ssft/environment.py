"""What a run or a measurement ran on: the libraries' versions, the processor, the device."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from ssft._version import __version__

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "huggingface_hub")
"""What decides speed and results beside ssft itself, by the names of the packages."""


def versions() -> dict[str, str]:
    """The version of ssft and of each of `LIBRARIES` that is installed."""
    found = {"ssft": __version__}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if not names and platform.system() == "Darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        names = done.stdout.split("\n")[:1]
    # `platform` asks a program, `uname`.
    return next(filter(None, names), "") or platform.processor() or platform.machine()


def describe_device(device: torch.device) -> str:
    """What a measurement ran on: "cuda: NVIDIA H100" or "cpu: model name, 2 threads"."""
    import torch

    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {cpu_name()}, {torch.get_num_threads()} threads"
