"""A result as one HTML page that needs no other file and asks no server for anything."""

from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssft.bench.methods import method_module, method_names
from ssft.bench.report import plots
from ssft.bench.report.findings import LOW_PRECISION, OURS, TIE, count, find
from ssft.bench.report.style import MUTED, OKABE_ITO, OUR_COLOUR
from ssft.bench.report.tables import machine, tables
from ssft.bench.result import BenchResult, SuiteResult
from ssft.tables import html

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


def html_report(result: SuiteResult) -> str:
    """The whole page. Every text of the result is escaped; the only markup that is not is our own drawings'."""
    environment = Environment(
        loader=PackageLoader("ssft.bench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    benches = {name: task.bench for name, task in result.tasks.items()}
    return environment.get_template("page.html.j2").render(
        result=result,
        created=_day(result.created),
        machine=machine(result),
        tasks=count(len(benches), "task"),
        cards=[_card(name, bench) for name, bench in benches.items()],
        plots=[_plot(draw, result) for draw in plots.drawings(result)],
        tables=[(table.title, html(table)) for table in tables(result)],
        descriptions=_descriptions(benches),
        each=lambda key: ", ".join(dict.fromkeys(str(getattr(bench, key)) for bench in benches.values())) or "no",
        low_precision=", ".join(LOW_PRECISION),
        tie=f"{TIE:g}",
        trees=_trees(benches),
    )


def _card(task: str, bench: BenchResult) -> dict[str, Any]:
    """The task in one large number and a few sentences."""
    finding = find(bench)
    card: dict[str, Any] = {"task": task, "finding": finding, "figure": None, "colour": MUTED}
    if finding.leader is not None:
        card["figure"] = f"{bench.methods[finding.leader].speedup or 0.0:.2f}×"
        card["label"] = f"{finding.leader} against {bench.baseline}"
    if finding.clear:
        card["colour"] = OUR_COLOUR if finding.leader == OURS else OKABE_ITO[0]
    return card


def _plot(draw: plots.Draw, result: SuiteResult) -> tuple[str, str, Markup]:
    """Title, how to read it, the drawing."""
    title, caption = _CAPTIONS[draw]
    if draw is plots.quality_figure:
        caption = f"{caption} {_twins(result)}"
    # matplotlib has escaped the names in it.
    return title, caption, Markup(plots.to_svg(draw, result))


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


def _descriptions(benches: dict[str, BenchResult]) -> dict[str, str]:
    """Method -> its module's own line, for all that ran or were left out."""
    seen = dict.fromkeys(name for bench in benches.values() for name in (*bench.methods, *bench.left_out))
    return {name: method_module(name).DESCRIPTION for name in seen if name in method_names()}


def _trees(benches: dict[str, BenchResult]) -> dict[str, list[str]]:
    """Draft tree -> the tasks that share it."""
    found: dict[str, list[str]] = {}
    for name, bench in benches.items():
        found.setdefault(", ".join(f"{key} {value}" for key, value in bench.tree.items()), []).append(name)
    return found


def _day(created: str) -> str:
    """`2026-01-05T14:30:00+00:00` -> `5 January 2026, 14:30 UTC`; a text that is no time stays what it is."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
