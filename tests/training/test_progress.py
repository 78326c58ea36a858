"""What a training shows: rows and notes of at most 80 characters, one bar on a terminal, nothing of the libraries'."""

import io
import re
import sys
import time
from types import SimpleNamespace

import datasets
import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from measuring_trainer import make_trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from ssft.training.measure import MEASURED
from ssft.training.progress import Pace, TrainingTable, no_other_bars, training_table


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """Trains under a table and returns the lines on stderr; what a carriage return writes over is a line of its own."""

    def run(stream, **settings):
        settings = {"logging_steps": 2, "measure_steps": 3, "max_steps": 6, "disable_tqdm": False, **settings}
        trainer = make_trainer(tmp_path, **settings)
        monkeypatch.setattr(sys, "stderr", stream)
        with training_table(trainer, "mine"):
            trainer.train()
            trainer.evaluate()
        return [line.rstrip() for line in re.split(r"[\r\n]", stream.getvalue()) if line.strip()]

    return run


def test_a_pipe_gets_plain_lines(shown, capfd):
    lines = shown(io.StringIO())
    assert lines[:3] == [
        "mine: 6 steps of 2 rows;",
        "every 3 steps 2 held-back rows are decoded and tell how far the streams are.",
        "    step    loss    main  stream 1  stream 3  tokens/s    left",
    ]
    assert [line.split()[0] for line in lines[3:]] == ["2", "3", "4", "6", "6", "6", "6"]
    assert re.fullmatch(r" {7}2( +\d+\.\d{3}){4} +[\d,]+ +\d+ s", lines[3])
    assert re.match(r" {7}3  held-back rows: \d\.\d\d tokens per call", lines[4])
    assert re.match(r" {7}6  held-back rows: main \d+\.\d{3}, stream 1 \d+\.\d{3}, stream 3 ", lines[-2])
    assert re.fullmatch(r" {7}6  chains accepted to depth 1, 2, …: 0\.\d\d, 0\.\d\d, 0\.\d\d", lines[-1])
    assert max(map(len, lines)) <= 80
    assert "{" not in "".join(lines) + "".join(capfd.readouterr())


def test_a_terminal_gets_one_bar_below_the_same_lines(shown):
    lines = shown(Terminal())
    bars = [line for line in lines if "%" in line]
    assert re.fullmatch(r"100% \S+ +6/6 steps, \S+ gone, \S+ left, \d\.\d\d tokens per call", bars[-1])
    assert all(" steps, " in bar for bar in bars)
    assert sum("held-back rows: " in line for line in lines) == 3
    assert max(map(len, lines)) <= 80


def test_a_run_that_was_told_so_has_no_bar(shown):
    assert not any("%" in line for line in shown(Terminal(), disable_tqdm=True))


def test_an_interrupted_run_leaves_the_cursor_below_its_bar(tmp_path, monkeypatch):
    stream = Terminal()
    trainer = make_trainer(tmp_path, disable_tqdm=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(trainer, "training_step", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), training_table(trainer, "mine"):
        trainer.train()
    assert "0/4 steps" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_the_target_is_told_where_it_is_reached(shown):
    lines = shown(io.StringIO(), max_steps=300, measure_steps=4, stream_loss_weight=1.0, stop_at_tokens_per_call=1.5)
    assert lines[0] == "mine: 300 steps of 2 rows, until 1.5 tokens per call;"
    assert any("; the target of 1.5 is reached" in line for line in lines[-4:])
    assert max(map(len, lines)) <= 80


def test_transformers_own_bars_and_dicts_are_gone(tmp_path):
    trainer = make_trainer(tmp_path, disable_tqdm=True)
    with training_table(trainer, "mine"):
        kinds = {type(callback) for callback in trainer.callback_handler.callbacks}
    assert TrainingTable in kinds
    assert not kinds & {PrinterCallback, ProgressCallback}


def test_long_losses_and_far_aims_stay_within_80_columns(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, validation=2)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    table = TrainingTable(trainer, "mine")
    state = SimpleNamespace(is_world_process_zero=True, global_step=123_456, max_steps=999_999, log_history=[])
    table.begin = time.perf_counter() - 3e6  # whatever the machine's clock began at
    table.pace.add(0.0, 1.0)
    names = ["loss", *table.losses]
    table.on_log(None, state, None, {**dict.fromkeys(names, 123.4567), "num_tokens": 1e9})
    table.on_log(None, state, None, {f"eval_{name}": 123.4567 for name in names})
    table.on_log(None, state, None, {"eval_loss": 1.0, **{f"eval_acceptance_{j}": 0.5 for j in range(1, 17)}})
    state.log_history.append({MEASURED: 1.01, "step": 123_456})
    table._show_measurement(state)
    lines = sys.stderr.getvalue().splitlines()
    assert re.search(r"at this pace 2 in 3,4\d\d days, 3 in 6,9\d\d days$", " ".join(" ".join(lines[-2:]).split()))
    assert max(map(len, lines)) <= 80


def test_the_pace_is_the_line_through_the_last_two_measurements():
    pace = Pace()
    assert pace.seconds_until(2) is None
    pace.add(0, 1.0)
    assert pace.seconds_until(2) is None
    pace.add(100, 1.5)
    assert pace.seconds_until(2) == pytest.approx(100)
    pace.add(150, 2.0)
    assert pace.seconds_until(3) == pytest.approx(100)
    assert pace.seconds_until(1.9) == 0
    pace.add(200, 1.9)
    assert pace.seconds_until(3) is None


def test_bars_of_the_libraries_are_off_inside_and_downloads_keep_theirs():
    def state():
        return datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()

    before = state()
    with no_other_bars():
        assert state() == (True, False, before[2])
    assert state() == before
