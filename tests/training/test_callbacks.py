"""Which checkpoint a killed run resumes from, and in which order it takes its rows."""

from types import SimpleNamespace

import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from ssft.training.callbacks import OrderByEpoch, last_complete_checkpoint


def test_an_unfinished_checkpoint_is_passed_over(tmp_path):
    for step, whole in ((5, True), (20, True), (100, True), (120, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "complete").touch()
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-100"


def test_none_without_checkpoints(tmp_path):
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "absent") is None


def order(processes, epoch, skipped=0):
    """The rows, by length, that the first of some processes takes in an epoch, as the trainer lets it."""
    loader = DataLoader(range(16), batch_size=2, sampler=LengthGroupedSampler(2, lengths=[i % 5 for i in range(16)]))
    loader = prepare_data_loader(loader, "cpu", processes, 0, put_on_device=False)
    settings, state = SimpleNamespace(seed=1, data_seed=None), SimpleNamespace(epoch=epoch)
    OrderByEpoch().on_epoch_begin(settings, state, None, train_dataloader=loader)
    return [batch.tolist() for batch in (skip_first_batches(loader, skipped) if skipped else loader)]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_order_by_length_depends_on_the_epoch_alone(processes):
    second, third = order(processes, 1.0), order(processes, 2.0)
    assert len(second) == 8 // processes
    assert second != third
    assert order(processes, 1.25, skipped=1) == second[1:]
