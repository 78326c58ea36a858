"""What both trainers of speculation share: the scale of the loss, and metrics over all ranks."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from ssft.training.metrics import SpeculationMetrics


def trainer(processes=1, average=True, training=True):
    """The parts of a trainer that the mixin touches; every other rank has the same sums as this one."""
    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=processes, reduce=lambda value, reduction: value * processes),
        args=SimpleNamespace(average_tokens_across_devices=average),
        model=SimpleNamespace(training=training),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
    )


@pytest.mark.parametrize(
    ("processes", "average", "own", "items", "expected"),
    [
        (1, True, 4, None, 3.0),
        (2, True, 4, None, 3.0),  # without a count of the whole batch each rank has its own mean
        (1, True, 4, 6, 2.0),
        (2, True, 4, 6, 4.0),  # the ranks' gradients are averaged, so their sum needs the factor
        (2, False, 4, 6, 2.0),
        (1, True, 0, None, 12.0),
        (1, True, 0, 0, 12.0),
    ],
)
def test_a_sum_becomes_a_mean_per_token(processes, average, own, items, expected):
    for own_tokens, all_tokens in ((own, items), (torch.tensor(own), None if items is None else torch.tensor(items))):
        found = SpeculationMetrics._per_token(trainer(processes, average), torch.tensor(12.0), own_tokens, all_tokens)
        assert found.item() == expected


def test_losses_are_means_over_all_ranks_and_a_guess_without_targets_has_none():
    ours = trainer(processes=2)
    ours._total_train_tokens = 10
    SpeculationMetrics._log_losses(
        ours, ["near", "far"], torch.tensor([6.0, 0.0]), torch.tensor([3, 0]), torch.ones(2, 4, dtype=torch.long)
    )
    assert dict(ours._metrics["train"]) == {"near": [2.0], "num_tokens": [10 + 2 * 8]}


def test_tokens_of_an_evaluation_are_not_counted_as_trained():
    ours = trainer(training=False)
    ones = torch.ones(1)
    SpeculationMetrics._log_losses(ours, ["near"], ones, ones, torch.ones(2, 4, dtype=torch.long))
    assert dict(ours._metrics["eval"]) == {"near": [1.0], "num_tokens": [0]}
