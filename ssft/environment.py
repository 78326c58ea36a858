"""What a run or a measurement ran on."""

import platform
from pathlib import Path

import torch


def describe_device(device: torch.device) -> str:
    """What a measurement ran on: "cuda: NVIDIA H100" or "cpu: model name, 2 threads"."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    # `platform` asks a program, `uname`.
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{device.type}: {name}, {torch.get_num_threads()} threads"
