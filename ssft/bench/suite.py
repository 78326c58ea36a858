"""`ssft bench tasks`: several adapters in one run, each with its methods side by side and its quality.

One task's model is in memory at a time. What is finished is handed to `save` after every task, so that a killed run
loses one task at most; it says `interrupted` as long as a task is missing.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ssft.bench.answers import encode_rows
from ssft.bench.measure import measure
from ssft.bench.methods import Setting
from ssft.bench.peers import Ready, ready_methods
from ssft.bench.quality import quality_result, questions_of, score_answers
from ssft.bench.spec_bench import row_categories
from ssft.errors import ConfigError
from ssft.files import json_sha256
from ssft.results.schema import BenchResult, SuiteResult, TaskResult


@dataclass(frozen=True)
class Task:
    """One adapter.

    rows: at least `SuiteSettings.limit` of them where there are so many; the first are the prompts. load, load_twin:
    give the model with the adapter, and with its twin or None where there is none. twin_unlike: see `QualityResult`.
    peers: see `Setting`. data: see `BenchResult`.
    """

    name: str
    rows: Sequence[dict[str, Any]]
    load: Callable[[], Any]
    load_twin: Callable[[], Any] | None = None
    peers: Path | None = None
    data: dict[str, str] | None = None
    twin_unlike: Sequence[str] = ()


@dataclass(frozen=True)
class SuiteSettings:
    """The same for all tasks. limit: prompts of each that are timed. quality_limit: rows that are scored, 0 for none.
    methods: names, or None for all that can run. temperature: tokens are drawn at it; None: the likeliest is taken.
    form: `json_schema`, `regex` or `grammar` and its text, which all texts are to follow; empty for any text."""

    limit: int | None = 10
    quality_limit: int = 40
    max_new_tokens: int = 96
    batch_size: int = 1
    rounds: int = 3
    seed: int = 0
    methods: Sequence[str] | None = None
    progress: bool = True
    temperature: float | None = None
    form: dict[str, str] = field(default_factory=dict)

    def ready_methods(self, adapted: Any, peers: Path | None) -> Ready:
        """The methods over an adapter, and why the others cannot run; see `peers.ready_methods`."""
        return ready_methods(self.methods, Setting(adapted, self.max_new_tokens, self.batch_size, peers, self.sampling))

    @property
    def sampling(self) -> dict[str, Any]:
        """How tokens are chosen: greedily, or drawn at a temperature with the run's own seed; and the texts' form."""
        drawn = {} if self.temperature is None else {"temperature": self.temperature, "seed": self.seed}
        return {**drawn, **self.form}

    def measure(self, adapted: Any, rows: Sequence[dict[str, Any]], ready: Ready, whose: str = "") -> BenchResult:
        """The methods on the prompts of rows, their categories apart; for `whose` see `encode_rows`."""
        return measure(
            adapted,
            encode_rows(adapted, rows, whose),
            ready[0],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            rounds=self.rounds,
            seed=self.seed,
            progress=self.progress,
            categories=row_categories(rows),
            left_out=ready[1],
            temperature=self.temperature,
            form=form_identity(self.form),
        )


def form_identity(form: dict[str, str]) -> str | None:
    """`BenchResult.form`."""
    return next((f"{name} {json_sha256(text)}" for name, text in form.items()), None)


def run_suite(
    tasks: Sequence[Task], settings: SuiteSettings, command: str, save: Callable[[SuiteResult], object]
) -> SuiteResult:
    """Run the tasks in order.

    Args:
        command: for `SuiteResult.command`.
        save: called with what is finished after every task, and at the end.

    A Ctrl-C returns what is there, the finished rounds of the running task included, with `interrupted` set; before
    anything is finished it ends the run. An error saves what is there and is raised.
    """
    if not tasks or (settings.limit or 0) < 1 or settings.quality_limit < 0:
        raise ConfigError(
            f"{len(tasks)} tasks, limit={settings.limit}, quality_limit={settings.quality_limit}: a run needs a task, "
            "a prompt for each, and 0 or more rows to score"
        )
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    done: dict[str, TaskResult] = {}

    def saved(interrupted: bool) -> SuiteResult:
        first = next(iter(done.values())).bench
        facts = (first.device, first.precision, first.threads, first.versions)
        result = SuiteResult(dict(done), *facts, interrupted, created, command)
        save(result)
        return result

    for number, task in enumerate(tasks, start=1):
        begin, place = time.perf_counter(), f"{number}/{len(tasks)} {task.name}"
        try:
            for found in _run_task(task, settings, place):
                found.bench.data, found.bench.command = task.data, command
                done[task.name] = found
        except (Exception, KeyboardInterrupt) as error:
            if not done:
                raise
            how = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{task.name} failed"
            print(f"{how}: the result covers {', '.join(done)}", file=sys.stderr)
            # Whatever the error is: the tasks before it took minutes.
            result = saved(interrupted=True)
            if isinstance(error, KeyboardInterrupt):
                return result
            raise
        finally:
            _free()
        if settings.progress:
            print(f"{place}: done in {time.perf_counter() - begin:,.0f} s", file=sys.stderr)
        if number < len(tasks):
            saved(interrupted=True)
    return saved(interrupted=False)


def _run_task(task: Task, settings: SuiteSettings, place: str) -> Iterator[TaskResult]:
    """The task's result, every time that there is more of it; raises `KeyboardInterrupt` after a part of the rounds."""
    questions = questions_of(task.rows, settings.quality_limit)
    adapted = task.load()
    rows = task.rows[: settings.limit]
    methods, left_out = ready = settings.ready_methods(adapted, task.peers)
    if settings.progress:
        without = f"; left out: {', '.join(left_out)}" if left_out else ""
        print(f"{place}: {len(rows)} prompts with {', '.join(methods)}{without}", file=sys.stderr)
    found = TaskResult(settings.measure(adapted, rows, ready, f"prompts of {task.name}: "))
    yield found
    if found.bench.interrupted:
        raise KeyboardInterrupt
    if questions is None:
        return
    methods.clear()  # their heads and drafts are not needed for the answers
    scores = score_answers(adapted, questions, settings.max_new_tokens, settings.progress)
    found.quality = quality_result(questions.metric, scores)
    yield found
    if task.load_twin is not None:
        del adapted, methods, ready  # one model at a time
        _free()
        twin = score_answers(task.load_twin(), questions, settings.max_new_tokens, settings.progress)
        found.quality = quality_result(questions.metric, scores, twin, task.twin_unlike)
        yield found


def _free() -> None:
    """Give the memory of models that nothing refers to back: hooks hold them in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
