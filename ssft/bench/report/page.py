"""The report of `ssft bench tasks` as files: JSON, one HTML page that asks no server for anything, one PNG."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssft.bench.methods import method_module, method_names
from ssft.bench.report import plots
from ssft.bench.report.findings import LOW_PRECISION, OURS, TIE, benches, find
from ssft.bench.report.tables import machine, tables
from ssft.files import write_json, write_output, write_text
from ssft.results.schema import SuiteResult
from ssft.tables import count, html

REPORT_FILES = ("report.json", "report.html", "report.png")

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
        "it; the twin has none. The small numbers are the adapter's mean minus the twin's. Where more than the streams "
        "differs in their trainings, or that is not known, a table below says in what.",
    ),
}


def write_report(result: SuiteResult, folder: Path) -> list[Path]:
    """Write `REPORT_FILES` into a folder, which is made if need be: each file whole or not at all.

    The JSON comes first: it alone cannot be made again from the others. With no finished task there is no picture, and
    an older one, which would not belong to the new JSON, is removed.
    """
    data, page, picture = (Path(folder) / name for name in REPORT_FILES)
    write_json(data, result)
    write_text(page, html_report(result))
    if not any(task.bench.methods for task in result.tasks.values()):
        picture.unlink(missing_ok=True)
        return [data, page]
    write_output(picture, plots.to_png(plots.overview_figure, result))
    return [data, page, picture]


def html_report(result: SuiteResult) -> str:
    """The whole page. Every text of the result is escaped; the only markup that is not is our own drawings'."""
    loader = PackageLoader("ssft.bench.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tasks = benches(result)
    named = dict.fromkeys(name for bench in tasks.values() for name in (*bench.methods, *bench.left_out))
    return environment.get_template("page.html.j2").render(
        result=result,
        machine=machine(result),
        tasks=count(len(tasks), "task"),
        cards=[(name, bench, find(bench)) for name, bench in tasks.items()],
        # matplotlib has escaped the names in its drawings.
        plots=[(*_CAPTIONS[draw], Markup(plots.to_svg(draw, result))) for draw in plots.drawings(result)],
        tables=[(table.title, html(table)) for table in tables(result)],
        descriptions={name: method_module(name).Method.DESCRIPTION for name in named if name in method_names()},
        each=lambda key: ", ".join(dict.fromkeys(str(getattr(bench, key)) for bench in tasks.values())) or "no",
        low_precision=", ".join(LOW_PRECISION),
        tie=f"{TIE:g}",
        ours=OURS,
    )
