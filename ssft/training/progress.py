"""What a run shows while it trains: one table on stderr that grows by a row whenever the trainer logs, and one bar.

On a terminal the bar stands below the table, with the time left. Elsewhere there are the rows alone, one line each.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

import datasets
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from ssft.tables import duration
from ssft.training.measure import MEASURED
from ssft.training.prune_head import LOSS

WIDTH = 80
"""Characters of a line, at most."""
AIMS = (2.0, 3.0)
"""Tokens per call whose time is told where the run has no target of its own."""


@dataclass
class Pace:
    """How fast tokens per call grow: measurements as (seconds of training, value)."""

    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, seconds: float, value: float) -> None:
        self.points.append((seconds, value))

    def seconds_until(self, aim: float) -> float | None:
        """Seconds from the last measurement until `aim`, on the line through the last two: a guess, as no line of
        learning is straight. None where it does not rise, or where there are no two yet."""
        if len(self.points) < 2:
            return None
        (begin, before), (end, now) = self.points[-2:]
        rise = (now - before) / max(end - begin, 1e-9)
        return max(aim - now, 0.0) / rise if rise > 0 else None


class TrainingTable(TrainerCallback):
    """The table of one run; only the main process of several shows it."""

    def __init__(self, trainer: Any, title: str) -> None:
        names = getattr(trainer, "loss_names", [])
        losses = [name for name in names if name != LOSS or len(names) == 1]
        # Between the first guess and the last one lie those whose loss is between theirs.
        self.losses = list(dict.fromkeys([*losses[:2], *losses[-1:]]))
        self.measure = next((c for c in trainer.callback_handler.callbacks if hasattr(c, "prompts")), None)
        self.args, self.title = trainer.args, title
        self.bar: Any = None
        self.pace = Pace()
        self.columns = ["step", "loss", *map(_short, self.losses), "tokens/s", "left"]
        self.shown: Any = None
        self.begin = self.first_step = self.step_begin = self.step_seconds = self.tokens = 0.0

    def close(self) -> None:
        """Leave the bar as it stands, with the cursor below it."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    # -- what the trainer tells -------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.begin, self.first_step = time.perf_counter(), state.global_step
        if not state.global_step:
            self.pace.add(0.0, 1.0)  # streams that learned nothing: every pass yields its one token
        self._write(f"{self.title}: {self._plan(state)}")
        self._write(self._line(self.columns))
        if sys.stderr.isatty() and not args.disable_tqdm:
            shape = "{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps, {elapsed} gone, {remaining} left{postfix}"
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, ncols=WIDTH - 1, bar_format=shape)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step_begin = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step_seconds += time.perf_counter() - self.step_begin
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        self._show_measurement(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if "loss" in logs:
            tokens = logs.get("num_tokens", 0.0) - self.tokens
            self.tokens += tokens
            speed = f"{tokens / self.step_seconds:,.0f}" if self.step_seconds and tokens > 0 else ""
            self.step_seconds = 0.0
            losses = [_number(logs.get(name)) for name in ("loss", *self.losses)]
            self._write(self._line([str(state.global_step), *losses, speed, self._left(state)]))
        elif any(key.startswith("eval_") for key in logs):
            for line in _evaluation(logs, self.losses):
                self._note(state, line)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._show_measurement(state)
        self.close()

    # -- lines ------------------------------------------------------------------------------------------------

    def _plan(self, state: Any) -> str:
        at = (
            f"steps {state.global_step:,} to {state.max_steps:,}" if state.global_step else f"{state.max_steps:,} steps"
        )
        rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        plan = f"{at} of {rows} rows"
        if self.measure is None or not self.measure.prompts:
            return plan
        end = f", until {self.measure.target:g} tokens per call" if self.measure.target else ""
        when = f"every {self.args.measure_steps} steps {len(self.measure.prompts)} held-back rows are decoded"
        return f"{plan}{end};\n{when} and tell how far the streams are."

    def _show_measurement(self, state: Any) -> None:
        """Say what has just been measured, if anything has, and when more is to be expected."""
        last = state.log_history[-1] if state.log_history else {}
        if not state.is_world_process_zero or MEASURED not in last or last is self.shown:
            return
        self.shown, value = last, last[MEASURED]
        self.pace.add(time.perf_counter() - self.begin, value)
        told = f"held-back rows: {value:.2f} tokens per call"
        target = self.measure.target if self.measure is not None else None
        if target is not None and value >= target:
            told += f"; the target of {target:g} is reached"
        elif state.global_step < state.max_steps:
            aims = (target,) if target is not None else AIMS
            times = {aim: self.pace.seconds_until(aim) for aim in aims if aim > value}
            ahead = [f"{aim:g} in {duration(seconds)}" for aim, seconds in times.items() if seconds is not None]
            told += f"; at this pace {', '.join(ahead)}" if ahead else ""
        self._note(state, told)
        if self.bar is not None:
            self.bar.set_postfix_str(f"{value:.2f} tokens per call")

    def _left(self, state: Any) -> str:
        done = state.global_step - self.first_step
        gone = time.perf_counter() - self.begin
        return duration(gone / done * (state.max_steps - state.global_step)) if done else ""

    def _line(self, cells: list[str]) -> str:
        return "".join(f"{cell:>{max(len(name), 6) + 2}}" for name, cell in zip(self.columns, cells, strict=True))

    def _note(self, state: Any, text: str) -> None:
        for line in wrap(text, WIDTH, initial_indent=f"{state.global_step:>8}  ", subsequent_indent=" " * 10):
            self._write(line)

    def _write(self, text: str) -> None:
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            tqdm.write(text, file=sys.stderr)


def _short(loss: str) -> str:
    """`loss_stream_1` -> `stream 1`."""
    return loss.removeprefix("loss_").replace("_", " ")


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def _evaluation(logs: dict[str, Any], losses: list[str]) -> list[str]:
    """An evaluation in lines: the losses of the table's columns, and the share of chains accepted at each depth."""
    found = [f"{_short(name)} {logs[f'eval_{name}']:.3f}" for name in losses if f"eval_{name}" in logs]
    told = [f"held-back rows: {', '.join(found) or 'loss ' + _number(logs.get('eval_loss'))}"]
    depths = [f"{value:.2f}" for key, value in logs.items() if key.startswith("eval_acceptance_")]
    return [*told, f"chains accepted to depth 1, 2, …: {', '.join(depths)}"] if depths else told


@contextmanager
def training_table(trainer: Any, title: str) -> Iterator[TrainingTable]:
    """Inside, `trainer` shows a `TrainingTable` in the place of transformers' own bars and dicts."""
    for other in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(other)
    table = TrainingTable(trainer, title)
    trainer.add_callback(table)
    try:
        yield table
    finally:
        table.close()


@contextmanager
def no_other_bars() -> Iterator[None]:
    """Inside, the libraries show no bars of their own for weights that are read and rows that are tokenised; those of
    downloads stay."""
    rows, weights, downloads = (
        not datasets.are_progress_bars_disabled(),
        logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
    )
    datasets.disable_progress_bars()
    logging.disable_progress_bar()  # and with it those of downloads
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if rows:
            datasets.enable_progress_bars()
        if weights:
            logging.enable_progress_bar()
