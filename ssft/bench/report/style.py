"""The look of the plots: colours, type, panels, legend, and a few marks that several plots share."""

import math
from collections.abc import Collection
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

Canvas = Figure | SubFigure
Look = tuple[str, str]
"""Colour and marker."""

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

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b9bec8",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": GRID,
    "legend.frameon": False,
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


def report_style() -> AbstractContextManager[None]:
    """Matplotlib's own defaults, whatever the user's files say, and the style of this report on top."""
    return matplotlib.style.context(_STYLE, after_reset=True)


def panels_of(canvas: Canvas, titles: Collection[str], shared: bool = False, pad: float | None = None) -> list[Any]:
    """One panel per title, `COLUMNS` side by side; what is left over in the last row stays blank.

    shared: all have the same axes. pad: points between title and panel.
    """
    columns = min(COLUMNS, max(1, len(titles)))
    rows = max(1, math.ceil(len(titles) / columns))
    panels = list(canvas.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).flat)
    for axes, title in zip_longest(panels, titles):
        # Shared axes hide their labels inside; a panel above a blank one needs its own.
        axes.tick_params(labelbottom=True)
        axes.yaxis.label.set_visible(axes.get_subplotspec().is_first_col())
        axes.set_visible(title is not None)
        axes.set_title(title or "", pad=pad)
    return panels[: len(titles)]


def named_rows(axes: Any, names: Collection[str], bottom: float) -> None:
    """A panel whose rows have names, the first on top; `bottom` is its lower end."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(bottom, -0.57)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def legend(canvas: Canvas, looks: dict[str, Look], hollow: Collection[str] = ()) -> None:
    """The names of looks below all panels."""
    handles = [
        Line2D([], [], marker=marker, linestyle="", markersize=7, label=name, **face(colour, name in hollow))
        for name, (colour, marker) in looks.items()
    ]
    figure: Any = canvas.get_figure(root=True)
    columns = min(len(handles), int(figure.get_figwidth() / INCHES_PER_NAME))
    if handles:
        canvas.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.3)


def beside(axes: Any, at: tuple[float, float], text: str, across: str = "axes fraction", **looks: Any) -> None:
    """A text to the right of a point; its x is the panel's (1: the right edge) or with `across="data"` the axis's."""
    place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
    axes.annotate(text, at, xycoords=(across, "data"), **(place | looks))


def face(colour: str, hollow: bool) -> dict[str, Any]:
    """How a mark is filled."""
    return {"markerfacecolor": PAPER if hollow else colour, "markeredgecolor": colour if hollow else PAPER}


def estimate(axes: Any, y: float, value: float, interval: Any, look: Look, hollow: bool = False) -> None:
    """A mark at a value, on the bar of its interval, a pair or None."""
    colour, marker = look
    if interval is not None:
        axes.plot(interval, [y, y], color=colour, linewidth=1.6, solid_capstyle="round")
    axes.plot([value], [y], color=colour, marker=marker, markersize=7, **face(colour, hollow))
