"""Show the versions and the hardware that results depend on."""

from __future__ import annotations

import os
import platform
from typing import Any

import click

from ssft.base.embedded import cache_dir
from ssft.base.load import auto_dtype
from ssft.cli._options import json_option, print_facts, print_json
from ssft.environment import LIBRARIES, cpu_name, versions


def collect() -> dict[str, Any]:
    """Everything that `ssft env` prints, as plain values."""
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
    found = versions()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "ssft": found["ssft"],
        "python": platform.python_version(),
        "packages": {library: found.get(library) for library in LIBRARIES},
        "cpu": {
            "model": cpu_name(),
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
    (print_json if as_json else print_facts)(collect())
