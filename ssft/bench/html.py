"""A result as one HTML page that needs no other file and asks no server for anything."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssft.bench import plots
from ssft.bench.findings import LOW_PRECISION, OURS, TIE, broken, count, fastest, find
from ssft.bench.methods import method_module, method_names
from ssft.bench.plot_style import MUTED, OKABE_ITO, OUR_COLOUR
from ssft.bench.report import (
    SHOWN,
    TRAINING_HEADERS,
    bare_device,
    categories,
    human_bytes,
    number,
    quality_rows,
    training_rows,
)
from ssft.bench.result import BenchResult, CategoryResult, MethodResult, QualityResult, SuiteResult

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Plot:
    """One figure of the page: its title, how to read it, the drawing."""

    title: str
    caption: str
    svg: Markup


def _plot(draw: plots.Draw, result: SuiteResult) -> Plot:
    title, caption = _CAPTIONS[draw]
    if draw is plots.quality_figure:
        caption = f"{caption} {_twins(result)}"
    # matplotlib has escaped the names in it.
    return Plot(title, caption, svg=Markup(plots.to_svg(draw, result)))


_CAPTIONS: dict[plots.Draw, tuple[str, str]] = {
    plots.speedup_figure: (
        "How fast",
        "Times as fast as the fastest plain method, prompts included. Thin bars are 95 % intervals; an interval that "
        "reaches the line at 1 is no clear gain, and without one nothing is clear. A hollow mark is a method that "
        "promises plain's text and gives another, so it is not ranked.",
    ),
    plots.cost_figure: (
        "Why",
        "What a pass of the model gives, and what it costs. To the right: more tokens accepted. Upward: a dearer pass. "
        "Points on one line decode equally fast. Each batch's first pass, its time and its tokens are left out.",
    ),
    plots.acceptance_figure: (
        "How deep drafts hold",
        "Share of passes whose draft was accepted at least this deep, for the methods that draft.",
    ),
    plots.quality_figure: (
        "How good the answers are",
        "The adapter beside its twin, trained without streams. The adapter answers with its streams, as its users run "
        "it; the twin has none. The small numbers are the adapter's mean minus the twin's.",
    ),
}


def _twins(result: SuiteResult) -> str:
    """How alike the twins' trainings are."""
    twins = {name: task.quality for name, task in result.tasks.items() if task.quality and task.quality.twin}
    if not twins:
        return "No task has a twin."
    unlike = [name for name, quality in twins.items() if quality.twin_unlike]
    if not unlike:
        return "The two had the same training, data and seed."
    return (
        f"Their trainings are not known to be the same for {', '.join(unlike)}, so the streams are not all that may "
        "differ there; the tables say in what."
    )


def html_report(result: SuiteResult) -> str:
    """The whole page. Every text of the result is escaped; the only markup that is not is our own drawings'."""
    environment = Environment(
        loader=PackageLoader("ssft.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        result=result,
        title=f"Side by side: {', '.join(result.tasks)}" if result.tasks else "Side by side",
        created=_day(result.created),
        cards=[_card(name, task.bench) for name, task in result.tasks.items()],
        plots=[_plot(draw, result) for draw in plots.drawings(result)],
        tasks=[_task(name, task.bench, task.quality) for name, task in result.tasks.items()],
        descriptions=_descriptions(result),
        trained=[(name, row) for name, task in result.tasks.items() for row in training_rows(task.bench)],
        training_headers=TRAINING_HEADERS,
        device=bare_device(result.device),
        rules=[*_rules(result), *_trees(result)],
        counted=count,
    )


def _card(name: str, bench: BenchResult) -> dict[str, Any]:
    """The task in one large number and a few sentences."""
    finding = find(bench)
    card: dict[str, Any] = {"task": name, "finding": finding, "figure": None, "colour": MUTED}
    if finding.leader is not None:
        best = bench.methods[finding.leader]
        card["figure"] = _times(best.speedup)
        card["label"] = f"{finding.leader} against {bench.baseline}"
        if finding.clear:
            card["colour"] = OUR_COLOUR if finding.leader == OURS else OKABE_ITO[0]
    return card


def _task(name: str, bench: BenchResult, quality: QualityResult | None) -> dict[str, Any]:
    first = fastest(bench)
    return {
        "name": name,
        "bench": bench,
        "tokens": bench.methods["plain"].tokens if "plain" in bench.methods else 0,
        "methods": [_method(key, method, bench, key == first) for key, method in bench.methods.items()],
        "differences": [(key, entry) for key, method in bench.methods.items() for entry in method.differences[:SHOWN]],
        "hidden": [
            f"{key}: the first {SHOWN} of {len(method.differences)}"
            for key, method in bench.methods.items()
            if len(method.differences) > SHOWN
        ],
        "categories": _categories(bench) if len(categories(bench)) > 1 else [],
        "quality": [[_typeset(value) for value in row] for row in quality_rows(quality)] if quality else [],
        "metric": quality.metric if quality is not None else None,
        "unlike": quality.twin_unlike if quality is not None else [],
    }


def _method(name: str, method: MethodResult, bench: BenchResult, first: bool) -> dict[str, Any]:
    """One row of a task's table, as texts; None becomes a dash."""
    same = method.identical
    return {
        "name": name,
        "classes": " ".join(
            mark for mark, holds in (("baseline", name == bench.baseline), ("fastest", first)) if holds
        ),
        "speedup": _times(method.speedup),
        "interval": None if method.speedup is None else _span(method, name == bench.baseline),
        "decode": _times(method.decode_speedup),
        "cells": [
            f"{method.tokens_per_second:,.1f}",
            f"{method.tokens_per_call:.2f}",
            f"{method.calls:,}",
            f"{method.prompt_seconds:,.2f}",
            f"{method.decode_seconds:,.2f}",
        ],
        "same": None if same is None else f"{same}/{bench.rows}",
        "wrong": name in broken(bench),
        "sizes": [
            _short(method.extra_parameters),
            human_bytes(method.extra_bytes),
            human_bytes(method.peak_bytes),
        ],
    }


def _categories(bench: BenchResult) -> list[dict[str, Any]]:
    """One row per category, with a pair (speed-up, interval) per method."""
    return [
        {
            "name": category.name,
            "rows": category.rows,
            "baseline": category.baseline,
            "cells": [
                (None, None) if cell is None else (_times(cell.speedup), _span(cell, key == cell.baseline))
                for key, cell in category.cells.items()
            ],
        }
        for category in categories(bench)
    ]


def _descriptions(result: SuiteResult) -> dict[str, str]:
    """Method -> its module's own line, for all that ran or were left out."""
    seen = [name for task in result.tasks.values() for name in (*task.bench.methods, *task.bench.left_out)]
    known = set(method_names())
    return {name: method_module(name).DESCRIPTION for name in dict.fromkeys(seen) if name in known}


def _rules(result: SuiteResult) -> list[tuple[str, str]]:
    """How it was measured, with this run's numbers."""
    benches = [task.bench for task in result.tasks.values()]

    def each(key: str) -> str:
        return ", ".join(dict.fromkeys(str(getattr(bench, key)) for bench in benches)) or "no"

    return [
        (
            "Same prompts",
            f"Every method of a task gets the same token ids and the same stop tokens, makes at most "
            f"{each('max_new_tokens')} tokens, and decodes greedily in batches of at most {each('batch_size')}.",
        ),
        (
            "Paired rounds",
            f"{each('rounds')} rounds; each runs every method over all prompts, in random order (seed {each('seed')}), "
            "after a warm-up that does not count. What slows the machine down for a while slows all methods down.",
        ),
        (
            "Speed-up",
            "The median over the rounds of the baseline's seconds per token over the method's in the same round. The "
            "95 % interval is a bootstrap over rounds and prompts, and takes at least two of each. Within a category "
            "the baseline is the fastest plain method there.",
        ),
        (
            "Baseline",
            "The fastest method that makes one token per pass, whoever wrote it: no speed-up is measured against a "
            "slower one.",
        ),
        (
            "Counting",
            "Tokens are counted after the text is cut at its stop token, which counts. A call is a pass of the adapted "
            "model, the prompt's included. Passes of a separate draft model are no calls, but their time counts.",
        ),
        (
            "Prompt and decoding",
            "Prompt seconds last from the call until the first pass is done, decoding is the rest; both are sums over "
            "the prompts of a round, as medians over the rounds. The first pass reads the prompt and gives one token. "
            "That of assisted and prompt_lookup already verifies a draft: its making and the tokens it gave count for "
            "the prompt. The speed-up of decoding leaves the first passes' seconds and tokens out.",
        ),
        (
            "Same text",
            "Prompts whose token ids equal those of the method plain in every round. A missing, shorter or longer "
            "output counts as different. A method that promises plain's text and gives another is listed and not "
            f"ranked; in {', '.join(LOW_PRECISION)} a text that parts where plain's best token leads by at most "
            f"{TIE:g} logits is a tie that rounding decides, and breaks no promise.",
        ),
        (
            "Size",
            "Parameters and bytes on disk are what a method needs beside the base and the LoRA. Peak memory is the "
            "most that tensors took during one batch, above what was there before.",
        ),
        (
            "Machine",
            f"{bare_device(result.device)}; weights in {result.precision}; torch held to "
            f"{count(result.threads, 'thread')}.",
        ),
    ]


def _trees(result: SuiteResult) -> list[tuple[str, str]]:
    """The draft trees, each with the tasks that share it."""
    found: dict[str, list[str]] = {}
    for name, task in result.tasks.items():
        found.setdefault(", ".join(f"{key} {value}" for key, value in task.bench.tree.items()), []).append(name)
    return [("Draft tree" if len(found) == 1 else f"Draft tree of {', '.join(of)}", tree) for tree, of in found.items()]


def _times(value: float | None) -> str | None:
    return number(value, "{:.2f}×")


def _span(found: MethodResult | CategoryResult, baseline: bool) -> str | None:
    """The interval of a speed-up, a dash where it is missing; the baseline's own is 1 by definition, so None."""
    if baseline:
        return None
    return "–" if found.speedup_interval is None else "{:.2f} – {:.2f}".format(*found.speedup_interval)


def _typeset(value: Any) -> Any:
    """A table's text with a minus and an en dash in the place of hyphens."""
    return re.sub(r"(?<!\S)-(?=\d)", "−", value.replace(" - ", " – ")) if isinstance(value, str) else value


def _short(parameters: int) -> str:
    """`0`, `2,304`, `115 M`."""
    return f"{parameters:,}" if parameters < 1_000_000 else f"{parameters / 1e6:,.0f} M"


def _day(created: str) -> str:
    """`2026-01-05T14:30:00+00:00` -> `5 January 2026, 14:30 UTC`; a text that is no time stays what it is."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
