"""Peak memory against allocations of known size."""

import os
import sys

import pytest
import torch
from fake_adapted import fake_adapted, random_prompts

from ssft.bench.methods import Setting, build_methods
from ssft.bench.peak_memory import highest_sum, peak_bytes

CPU = torch.device("cpu")
MIB = 2**20


def block(mebibytes, device="cpu"):
    return torch.zeros(mebibytes * MIB, dtype=torch.uint8, device=device)


def several_blocks(device="cpu"):
    first = block(4, device)
    second = first + 1  # 8 MiB at once
    del first
    third = block(3, device)  # 7 MiB
    del second, third
    block(2, device)


def test_the_highest_running_sum():
    assert highest_sum(enumerate([5, 3, -5, 4, -7])) == 8
    assert highest_sum(enumerate([-5, 3])) == 0
    assert highest_sum([]) == 0


def test_changes_of_several_threads_are_put_in_order_of_time():
    first, second = [(10, 5), (30, -5)], [(20, 4), (40, -4), (50, 6)]
    assert highest_sum([*second, *first]) == highest_sum([*first, *second]) == 9
    # At one time what was told first came first.
    assert highest_sum([(10, 5), (20, 6), (20, -5)]) == 11


def test_the_peak_is_what_was_there_at_once():
    # Single numbers of an operation (the 1 above) take some bytes of their own.
    assert 8 * MIB <= peak_bytes(CPU, several_blocks) < 8 * MIB + 1024


def test_what_was_there_before_does_not_count():
    before = [block(16)]
    assert 8 * MIB <= peak_bytes(CPU, several_blocks) < 8 * MIB + 1024

    def replace():
        before.clear()  # its release is no credit for what follows
        block(5)

    assert 5 * MIB <= peak_bytes(CPU, replace) < 5 * MIB + 1024


def test_what_stays_counts():
    kept = []
    assert 6 * MIB <= peak_bytes(CPU, lambda: kept.extend([block(3), block(3)])) < 6 * MIB + 1024


def test_without_allocation_it_is_nothing():
    assert peak_bytes(CPU, lambda: None) == 0


def test_a_method_takes_the_same_memory_every_time():
    adapted, prompts = fake_adapted(), random_prompts(2)
    methods = build_methods(["plain", "streaming"], Setting(adapted, 8, 2))
    peaks = {}
    for name, method in methods.items():
        method.run(prompts)
        peaks[name] = [peak_bytes(CPU, lambda method=method: method.run(prompts)) for _ in range(2)]
        assert peaks[name][0] == peaks[name][1] > 0
    # A tree of nodes with streams beside them is wider than one token.
    assert peaks["streaming"][0] > peaks["plain"][0]


def test_a_device_that_does_not_tell_runs_all_the_same():
    runs = []
    assert peak_bytes(torch.device("meta"), lambda: runs.append(1)) is None
    assert runs == [1]


def test_errors_pass_and_stderr_is_whole(capfd):
    def fail():
        os.write(2, b"from C\n")
        print("from Python", file=sys.stderr)
        raise RuntimeError("told")

    before = block(1)  # its release in the recording is what the allocator warns of
    with pytest.raises(RuntimeError, match="told"):
        peak_bytes(CPU, fail)
    peak_bytes(CPU, lambda: before.resize_(2 * MIB))
    print("after", file=sys.stderr)
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == ["after", "from C", "from Python"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_counts_the_same_blocks():
    device = torch.device("cuda", torch.cuda.current_device())
    before = block(16, device)
    assert 8 * MIB <= peak_bytes(device, lambda: several_blocks(device)) <= 10 * MIB
    assert before.numel() == 16 * MIB
