"""Which checkpoint a killed run resumes from."""

from ssft.training.callbacks import last_complete_checkpoint


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
