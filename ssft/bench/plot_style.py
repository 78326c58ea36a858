"""The look of the plots: colours, type, panels, legend, and a few marks that several plots share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

Canvas = Figure | SubFigure

INK, MUTED, GRID, PAPER = "#1f2430", "#6a7180", "#e6e8ec", "#ffffff"
OUR_COLOUR = "#0072b2"
OKABE_ITO = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f")
GREYS = ("#3d4350", "#8a909c", "#b3b8c1")
MARKERS = ("s", "^", "v", "P", "X", "h")
COLUMNS = 3
"""Most panels side by side."""
INCHES_PER_NAME = 1.35
"""Of a method in a legend."""
WIDTHS = {1: 5.2, 2: 7.4, 3: 9.6}
"""Inches of a figure, by panels side by side."""

BEHIND = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
"""Keeps lines out of a text."""

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b9bec8",
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.facecolor": PAPER,
    # Ids are the same in every run.
    "svg.hashsalt": "ssft",
    # Text stays text: it can be searched and selected, and the page's own typeface shows it.
    "svg.fonttype": "none",
    "text.color": INK,
    # Names come from folders; a dollar sign in one is no formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}


@contextmanager
def report_style() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's files say, and the style of this report on top."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams
        parameters.update(_STYLE)
        yield


def panels_of(canvas: Canvas, number: int, sharex: bool = False, sharey: bool = False) -> list[Any]:
    """One panel per task, `COLUMNS` side by side; what is left over in the last row stays blank."""
    columns = min(COLUMNS, max(1, number))
    rows = max(1, math.ceil(number / columns))
    grid = canvas.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    panels = list(grid.flat)
    for axes in panels:
        # Shared axes hide them inside; a panel above a blank one needs its own.
        axes.tick_params(labelbottom=True)
    for axes in panels[number:]:
        axes.set_visible(False)
    return panels[:number]


def label(axes: Any, x: str, y: str | None = None) -> None:
    axes.set_xlabel(x)
    if y is not None and axes.get_subplotspec().is_first_col():
        axes.set_ylabel(y)


def legend(canvas: Canvas, names: Sequence[str], looks: dict[str, tuple[str, str]]) -> None:
    handles = [
        Line2D([], [], color=looks[name][0], marker=looks[name][1], linestyle="", markersize=7, label=name)
        for name in names
    ]
    figure: Any = canvas.get_figure(root=True)
    fitting = int(figure.get_figwidth() / INCHES_PER_NAME)
    if handles:
        canvas.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), fitting), handletextpad=0.3)


def beside(axes: Any, at: tuple[float, float], text: str, across: str = "axes fraction", **looks: Any) -> None:
    """A text to the right of a point; its x is the panel's (1: the right edge) or with `across="data"` the axis's."""
    axes.annotate(
        text,
        at,
        xycoords=(across, "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **looks,
    )


def face(colour: str, hollow: bool) -> dict[str, Any]:
    """How a mark is filled."""
    return {"markerfacecolor": PAPER if hollow else colour, "markeredgecolor": colour if hollow else PAPER}


def dot(
    axes: Any, y: float, value: float, span: tuple[float, float] | None, colour: str, marker: str, filled: bool
) -> None:
    if span is not None:
        axes.plot(span, [y, y], color=colour, linewidth=1.6, solid_capstyle="round")
    face = colour if filled else PAPER
    axes.plot([value], [y], color=colour, marker=marker, markersize=6.5, markerfacecolor=face)
