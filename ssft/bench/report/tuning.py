"""The page of `ssft tune`: speeds over budgets as a drawing, and the tables below it."""

from matplotlib.figure import Figure

from ssft.bench.report import style
from ssft.bench.report.figure_page import figure_page, svg_of
from ssft.bench.tuning import TuningResult, tuning_sentence, tuning_tables


def tuning_page(result: TuningResult, title: str) -> str:
    """An HTML page that asks no server for anything; the title is escaped."""
    return figure_page(title, tuning_sentence(result), tuning_svg(result), tuning_tables(result))


def tuning_svg(result: TuningResult) -> str:
    """Expected tokens per second over nodes, one line for each number of stream nodes, beside plain and auto."""
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
        return svg_of(figure)
