"""The page of `ssft bench prune`: speed-up over k with and without pruning, as the paper draws it (§3.2.3)."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssft.bench.prune import PruneComparison, prune_sentence, prune_table
from ssft.bench.report import style
from ssft.bench.report.figure_page import figure_page, svg_of


def prune_page(result: PruneComparison, title: str) -> str:
    """An HTML page that asks no server for anything; the title is escaped."""
    return figure_page(title, prune_sentence(result), prune_svg(result), [prune_table(result)])


def prune_svg(result: PruneComparison) -> str:
    """Speed-up over plain decoding by k: one line with pruning, one without, and plain decoding at 1."""
    looks = {True: ("with pruning", style.OUR_COLOUR, "o"), False: ("without", style.OKABE_ITO[0], style.MARKERS[0])}
    with style.report_style():
        figure = Figure(figsize=(style.WIDTHS[1], 3.4), layout="constrained")
        (axes,) = style.panels_of(figure, ["Speed-up over plain decoding"])
        axes.axhline(1, color=style.INK, linewidth=1.1, label="plain")
        for pruned, (name, colour, marker) in looks.items():
            axes.plot(*zip(*result.points(pruned), strict=True), label=name, color=colour, marker=marker)
        axes.set_xlabel("k: tokens taken from each stream")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside right center")
        return svg_of(figure)
