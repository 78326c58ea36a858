"""The page of `ssft tune`: speeds over budgets as a drawing, and the tables below it."""

import io

from markupsafe import Markup
from matplotlib.figure import Figure

from ssft.bench.report import style
from ssft.bench.tuning import TuningResult, tuning_sentence, tuning_tables
from ssft.tables import html

_PAGE = Markup(
    "<!doctype html>\n<meta charset=utf-8>\n<title>{title}</title>\n"
    "<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1f2430;"
    "background:#fff}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}"
    "th,td{{padding:.2rem .7rem;border-bottom:1px solid #e6e8ec}}</style>\n"
    "<h1>{title}</h1>\n<p>{sentence}</p>\n{drawing}\n{tables}\n"
)


def tuning_page(result: TuningResult, title: str) -> str:
    """An HTML page that asks no server for anything; the title is escaped."""
    tables = [Markup("<h2>{}</h2>\n{}").format(table.title, html(table)) for table in tuning_tables(result)]
    return str(
        _PAGE.format(
            title=title,
            sentence=tuning_sentence(result),
            drawing=Markup(tuning_svg(result)),
            tables=Markup("\n").join(tables),
        )
    )


def tuning_svg(result: TuningResult) -> str:
    """Expected tokens per second over nodes, one line for each number of stream nodes, beside plain and auto."""
    buffer = io.BytesIO()
    with style.report_style():
        figure = Figure(figsize=(style.WIDTHS[2], 3.6), layout="constrained")
        (axes,) = style.panels_of(figure, ["Expected tokens per second"])
        for number, sources in enumerate(sorted({budget.sources for budget in result.fixed})):
            points = [(b.nodes, b.tokens_per_second) for b in result.fixed if b.sources == sources]
            look = {"color": style.OKABE_ITO[number % 6], "marker": style.MARKERS[number % 6], "markersize": 5}
            axes.plot(*zip(*points, strict=True), label=f"{sources} with streams", **look)
        axes.axhline(result.plain, color=style.INK, linewidth=1.1, label="plain")
        axes.axhline(result.tuned.tokens_per_second, color=style.OUR_COLOUR, linewidth=1.6, label="budget=auto")
        axes.set_xlabel("nodes")
        axes.set_ylim(0, None)
        figure.legend(loc="outside right center")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode("utf-8")
    return text[text.index("<svg") :]
