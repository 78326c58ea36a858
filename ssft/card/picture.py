"""The course of a training as a small picture, from the history of its provenance."""

import io
import math
import re
from typing import Any

from ssft.bundle.folder import finite
from ssft.errors import BundleError

MAX_ENTRIES = 100_000
_MAX_NUMBER = 1e30
"""Larger ones are drawn as gaps: where an axis reaches to the ends of the floats, its ticks are beyond them."""

_LOSS = re.compile(r"loss_(main|stream_\d{1,2})")
_ACCEPTANCE = re.compile(r"eval_acceptance_(\d{1,2})")

# Okabe and Ito's colours, which differ for the colour-blind too; the main stream is black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999", "#F0E442")

Series = dict[str, list[tuple[float, float]]]


def loss_series(history: Any) -> tuple[Series, Series]:
    """(training losses by stream, acceptances by depth), each as points (step, value), in order of the history.

    A value that is not finite (a step of fp16 training that overflowed) is NaN, a gap in the line. Raises `BundleError`
    for foreign entries.
    """
    if not isinstance(history, list) or len(history) > MAX_ENTRIES:
        raise BundleError(
            f"provenance.json: history is no list of at most {MAX_ENTRIES:,} entries; the file is damaged"
        )
    losses: Series = {}
    acceptances: Series = {}
    for entry in history:
        if not isinstance(entry, dict):
            raise BundleError(f"provenance.json: history holds {str(entry)[:60]!r}, no object; the file is damaged")
        for key, value in entry.items():
            series = losses if _LOSS.fullmatch(key) else acceptances if _ACCEPTANCE.fullmatch(key) else None
            if series is not None and (step := _drawable(entry.get("step"))) is not None:
                if type(value) not in (int, float):
                    raise BundleError(f"provenance.json: history has {key}={str(value)[:60]!r}, no number")
                number = _drawable(value)
                series.setdefault(_label(key), []).append((step, math.nan if number is None else number))
    return _in_order(losses), _in_order(acceptances)


def has_curve(history: Any) -> bool:
    """Whether there are losses of two steps or more."""
    series = loss_series(history)[0].values()
    return any(sum(math.isfinite(value) for _, value in points) > 1 for points in series)


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
    if min(value for points in losses.values() for _, value in points if math.isfinite(value)) > 0:
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
        unique = dict(points)  # a resumed or last evaluation stands twice
        axes.plot(list(unique), list(unique.values()), label=name, color=colour, marker=marker, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _label(key: str) -> str:
    """`loss_main` -> "main", `loss_stream_2` -> "stream 2", `eval_acceptance_2` -> "depth 2"."""
    if key == "loss_main":
        return "main"
    return ("depth " if key.startswith("eval_acceptance") else "stream ") + key.rpartition("_")[2]


def _in_order(series: Series) -> Series:
    """The main stream first, stream 10 after stream 9."""
    return dict(sorted(series.items(), key=lambda item: (len(item[0]), item[0])))


def _drawable(value: Any) -> float | None:
    """A number that an axis can reach, else None."""
    number = finite(value)
    return number if number is not None and abs(number) <= _MAX_NUMBER else None
