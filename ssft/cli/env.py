"""Show the versions and the hardware that results depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import click

from ssft._version import __version__
from ssft.base.embedded import cache_dir
from ssft.base.load import auto_dtype
from ssft.cli._options import json_option, print_json, table

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "huggingface_hub",
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def collect() -> dict[str, Any]:
    """Everything `ssft env` prints, as plain values."""
    import torch

    cuda = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        cuda = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "native_bfloat16": auto_dtype("cuda") == torch.bfloat16,
            "devices": torch.cuda.device_count(),
        }
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "ssft": __version__,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": usable,
            "threads": torch.get_num_threads(),
            "native_bfloat16": auto_dtype("cpu") == torch.bfloat16,
        },
        "cuda": cuda,
        "cache_dir": str(cache_dir()),
    }


@click.command()
@json_option()
def command(as_json: bool) -> None:
    """Show the versions and the hardware that results depend on."""
    facts = collect()
    if as_json:
        print_json(facts)
        return
    cpu, cuda = facts["cpu"], facts["cuda"]
    rows = [["ssft", facts["ssft"]], ["python", facts["python"]], *facts["packages"].items()]
    rows += [["cpu", cpu["model"]], ["cores", str(cpu["cores"])], ["threads", str(cpu["threads"])]]
    rows += [["native bfloat16", cpu["native_bfloat16"]]]
    rows += [["cuda", f"{cuda['devices']} x {cuda['name']}, capability {cuda['capability']}" if cuda else "none"]]
    rows += [["cache folder", facts["cache_dir"]]]
    table(rows, ["what", "value"])
