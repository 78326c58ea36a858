"""`ssft bench tasks`: several adapters in one run, each with its methods side by side and its quality.

One task's model is in memory at a time. What is finished is handed to `save` after every task, so that a killed run
loses one task at most; it says `interrupted` as long as a task is missing.
"""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ssft.bench.answers import encode_rows
from ssft.bench.measure import measure
from ssft.bench.methods import Setting
from ssft.bench.peers import ready_methods
from ssft.bench.quality import Questions, quality_result, questions_of, score_answers
from ssft.bench.result import BenchResult, SuiteResult, TaskResult
from ssft.bench.spec_bench import row_categories
from ssft.errors import ConfigError, DataError


@dataclass(frozen=True)
class Task:
    """One adapter.

    rows: at least `SuiteSettings.limit` of them where there are so many; the first are the prompts. load, load_twin:
    give the `AdaptedModel`, and its plain-LoRA twin's or None where there is none. twin_unlike: see `QualityResult`.
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
    """The same for all tasks. limit: prompts that are timed. quality_limit: rows that are scored, 0 for none. methods:
    names, or None for all that can run."""

    limit: int = 10
    quality_limit: int = 40
    max_new_tokens: int = 96
    batch_size: int = 1
    rounds: int = 3
    seed: int = 0
    methods: Sequence[str] | None = None
    progress: bool = True

    def setting(self, adapted: Any, peers: Path | None) -> Setting:
        """What methods over an adapter get to work with."""
        return Setting(adapted, self.max_new_tokens, self.batch_size, peers)


Ready = tuple[dict[str, Any], dict[str, str] | None]
"""What `peers.ready_methods` gives."""


def measure_rows(adapted: Any, rows: Sequence[dict[str, Any]], ready: Ready, settings: SuiteSettings) -> BenchResult:
    """`measure` on the prompts of rows, their categories apart."""
    methods, left_out = ready
    return measure(
        adapted,
        encode_rows(adapted, rows),
        methods,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        rounds=settings.rounds,
        seed=settings.seed,
        progress=settings.progress,
        categories=row_categories(rows),
        left_out=left_out,
    )


@dataclass
class _Run:
    """A suite under way."""

    settings: SuiteSettings
    command: str
    save: Callable[[SuiteResult], object]
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    tasks: dict[str, TaskResult] = field(default_factory=dict)

    def result(self, interrupted: bool) -> SuiteResult:
        first = next(iter(self.tasks.values())).bench
        return SuiteResult(
            tasks=dict(self.tasks),
            device=first.device,
            precision=first.precision,
            threads=first.threads,
            versions=first.versions,
            interrupted=interrupted,
            created=self.created,
            command=self.command,
        )


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
    if not tasks or settings.limit < 1 or settings.quality_limit < 0:
        raise ConfigError(
            f"{len(tasks)} tasks, limit={settings.limit}, quality_limit={settings.quality_limit}: a run needs a task, "
            "a prompt for each, and 0 or more rows to score"
        )
    run = _Run(settings, command, save)
    interrupted = False
    for number, task in enumerate(tasks, start=1):
        try:
            _run_task(run, task, f"{number}/{len(tasks)}")
            if number < len(tasks):
                save(run.result(interrupted=True))
        except KeyboardInterrupt:
            if not run.tasks:
                raise
            interrupted = True
            print(f"interrupted: the result covers {', '.join(run.tasks)}", file=sys.stderr)
            break
        except Exception:  # whatever it is: the tasks before it took minutes, and it is raised again
            if run.tasks:
                save(run.result(interrupted=True))
                print(f"{task.name} failed; the result covers {', '.join(run.tasks)}", file=sys.stderr)
            raise
        finally:
            _free()
    result = run.result(interrupted)
    save(result)
    return result


def _run_task(run: _Run, task: Task, place: str) -> None:
    """Put the task's result into `run.tasks` as soon as there is one; raises `KeyboardInterrupt` after a part of it."""
    settings, begin = run.settings, time.perf_counter()
    questions = questions_of(task.rows, settings.quality_limit)
    scores = _bench_and_scores(run, task, questions, place)
    if questions is not None and scores is not None:
        run.tasks[task.name].quality = quality_result(questions.metric, scores)
        if task.load_twin is not None:
            _free()
            twin = score_answers(task.load_twin(), questions, settings.max_new_tokens, settings.progress)
            run.tasks[task.name].quality = quality_result(questions.metric, scores, twin, task.twin_unlike)
    if settings.progress:
        print(f"{place} {task.name}: done in {time.perf_counter() - begin:,.0f} s", file=sys.stderr)


def _bench_and_scores(run: _Run, task: Task, questions: Questions | None, place: str) -> list[dict[str, float]] | None:
    """The adapter's scores, after the comparison; its model is gone when this returns."""
    settings = run.settings
    adapted = task.load()
    rows = list(task.rows[: settings.limit])
    methods, left_out = ready = ready_methods(settings.methods, settings.setting(adapted, task.peers))
    if settings.progress:
        without = f"; left out: {', '.join(left_out)}" if left_out else ""
        print(f"{place} {task.name}: {len(rows)} prompts with {', '.join(methods)}{without}", file=sys.stderr)
    try:
        bench = measure_rows(adapted, rows, ready, settings)
    except DataError as error:
        raise DataError(f"prompts of {task.name}: {error}") from error
    bench.data, bench.command = task.data, run.command
    run.tasks[task.name] = TaskResult(bench)
    if bench.interrupted:
        raise KeyboardInterrupt
    methods.clear()  # their heads and drafts are not needed for the answers
    if questions is None:
        return None
    return score_answers(adapted, questions, settings.max_new_tokens, settings.progress)


def _free() -> None:
    """Give the memory of models that nothing refers to back: hooks hold them in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
