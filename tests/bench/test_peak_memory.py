"""Peak memory: of a GPU, against allocations of known size."""

import pytest
import torch

from ssft.bench.peak_memory import peak_bytes

MIB = 2**20


def block(mebibytes, device):
    return torch.zeros(mebibytes * MIB, dtype=torch.uint8, device=device)


def several_blocks(device):
    first = block(4, device)
    second = first + 1  # 8 MiB at once
    del first
    third = block(3, device)  # 7 MiB
    del second, third
    block(2, device)


def test_a_device_that_does_not_tell_runs_all_the_same():
    runs = []
    assert peak_bytes(torch.device("cpu"), lambda: runs.append(1)) is None
    assert runs == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_counts_what_was_there_at_once_and_not_before():
    device = torch.device("cuda", torch.cuda.current_device())
    before = block(16, device)
    assert 8 * MIB <= peak_bytes(device, lambda: several_blocks(device)) <= 10 * MIB
    assert before.numel() == 16 * MIB
