"""The memory account: what the base takes, what each adapter takes, what the process has."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssft.base.kernels.linears import kernel_bytes
from ssft.lora.bank import AdapterBank


def memory_account(model: Any, bank: AdapterBank) -> dict[str, Any]:
    """Bytes, by where they are.

    base: parameters, buffers and the scales of 4-bit weights, shared ones once. adapters: by name, `bytes` (what it
    takes or took on the device), `file_bytes` (its safetensors files), `tier` ("device", "host", "disk") and `pinned`.
    adapters_resident: sum on the device; max_adapter_bytes: the budget. process: resident memory of this process;
    allocated: torch's on a GPU, else None.
    """
    return {
        "base": base_bytes(model),
        "adapters": {
            name: {
                "bytes": a.nbytes,
                "file_bytes": a.bundle.weights_bytes if a.bundle else 0,
                "tier": a.tier,
                "pinned": a.pinned,
            }
            for name, a in bank.all().items()
        },
        "adapters_resident": bank.resident_bytes(),
        "max_adapter_bytes": bank.max_bytes,
        "process": process_bytes(),
        "allocated": torch.cuda.memory_allocated(model.device) if model.device.type == "cuda" else None,
    }


def base_bytes(model: Any) -> int:
    """Bytes of a model's parameters, buffers, packed weights and quantisation state; storage that several of them share
    counts once."""
    seen: dict[int, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "meta":  # packed, or offloaded
            continue
        for part in [tensor, *_quantization_tensors(getattr(tensor, "quant_state", None))]:
            storage = part.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values()) + kernel_bytes(model)


def process_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


def _quantization_tensors(state: Any) -> list[Tensor]:
    """Scales and code book of a bitsandbytes weight, with those of its double quantisation."""
    if state is None:
        return []
    own = [getattr(state, name, None) for name in ("absmax", "code", "offset")]
    return [t for t in own if isinstance(t, Tensor)] + _quantization_tensors(getattr(state, "state2", None))
