"""The course of a training as a small picture, from the history of its provenance."""

import io
import math
import re
from typing import Any

from ssft.bundle.folder import finite
from ssft.errors import BundleError

_MAX_NUMBER = 1e30
"""Larger ones are drawn as gaps: where an axis reaches to the ends of the floats, its ticks are beyond them."""

_DRAWN = re.compile(r"loss_main|(loss_stream|eval_acceptance)_\d{1,2}")

# Okabe and Ito's colours, which differ for the colour-blind too; the main stream is black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999", "#F0E442")

Series = dict[str, dict[float, float]]


def loss_series(history: Any) -> tuple[Series, Series]:
    """(training losses by stream, acceptances by depth), each as step -> value.

    A value that is not finite (a step of fp16 training that overflowed) is NaN, a gap in the line. Raises `BundleError`
    for foreign entries.
    """
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise BundleError("provenance.json: history is no list of objects; the file is damaged")
    losses: Series = {}
    acceptances: Series = {}
    for entry in history:
        for key, value in entry.items():
            step = _drawable(entry.get("step"))
            if math.isnan(step) or not _DRAWN.fullmatch(key):
                continue
            if type(value) not in (int, float):
                raise BundleError(f"provenance.json: history has {key}={str(value)[:60]!r}, no number")
            series = acceptances if key.startswith("eval") else losses
            label = key.removeprefix("loss_").replace("eval_acceptance", "depth").replace("_", " ")
            # A resumed or last evaluation stands twice.
            series.setdefault(label, {})[step] = _drawable(value)
    # The main stream first, stream 10 after stream 9.
    losses, acceptances = (
        dict(sorted(series.items(), key=lambda item: (len(item[0]), item[0]))) for series in (losses, acceptances)
    )
    return losses, acceptances


def has_curve(history: Any) -> bool:
    """Whether there are losses of two steps or more."""
    return any(sum(map(math.isfinite, points.values())) > 1 for points in loss_series(history)[0].values())


def draw_curve(history: Any) -> bytes | None:
    """A PNG of some tens of kB: losses over steps, and where it was evaluated, acceptance; None without a curve."""
    if not has_curve(history):
        return None
    losses, acceptances = loss_series(history)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3) if acceptances else (5, 3), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if acceptances else 1, squeeze=False)[0]
    _plot(axes[0], losses, "loss per token", marker="")
    if min(value for points in losses.values() for value in points.values() if math.isfinite(value)) > 0:
        axes[0].set_yscale("log")
    if acceptances:
        _plot(axes[1], acceptances, "share of drafts accepted", marker="o")
        axes[1].set_ylim(0, 1)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _plot(axes: Any, series: Series, title: str, marker: str) -> None:
    others = [name for name in series if name != "main"]
    for name, points in series.items():
        colour = "black" if name == "main" else _COLOURS[others.index(name) % len(_COLOURS)]
        axes.plot(list(points), list(points.values()), label=name, color=colour, marker=marker, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _drawable(value: Any) -> float:
    """A number that an axis can reach, else NaN."""
    number = finite(value)
    return number if number is not None and abs(number) <= _MAX_NUMBER else math.nan
