"""A page of one drawing, a sentence above it and tables below it."""

import io
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from ssft.tables import Table, html

_PAGE = Markup(
    "<!doctype html>\n<meta charset=utf-8>\n<title>{title}</title>\n"
    "<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1f2430;"
    "background:#fff}}table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}"
    "th,td{{padding:.2rem .7rem;border-bottom:1px solid #e6e8ec}}</style>\n"
    "<h1>{title}</h1>\n<p>{sentence}</p>\n{drawing}\n{tables}\n"
)


def figure_page(title: str, sentence: str, drawing: str, tables: Sequence[Table]) -> str:
    """An HTML page that asks no server for anything; `drawing` is an `<svg>` element, all else is escaped."""
    shown = [Markup("<h2>{}</h2>\n{}").format(table.title, html(table)) for table in tables]
    return str(_PAGE.format(title=title, sentence=sentence, drawing=Markup(drawing), tables=Markup("\n").join(shown)))


def svg_of(figure: Figure) -> str:
    """The figure as an `<svg>` element."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode("utf-8")
    return text[text.index("<svg") :]
