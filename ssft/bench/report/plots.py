"""Plots of a comparison, drawn with matplotlib's objects alone: no pyplot, and no setting that outlives a drawing.

A method has one colour and one marker in all plots; the colours are told apart by colour-blind readers too (Okabe and
Ito), and plain methods are grey. Every figure has its own light background, so it can stand on a dark page.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ssft.bench.report import style
from ssft.bench.report.findings import OURS, YARDSTICK, broken, contenders, fastest, ranked
from ssft.results.schema import BenchResult, MethodResult, QualityResult, SuiteResult

Draw = Callable[[style.Canvas, SuiteResult], None]
"""Draws one plot of a result into a figure or a part of one."""


def speedup_figure(canvas: style.Canvas, result: SuiteResult) -> None:
    """Speed-up of every method on every task, with its interval, and the baseline as a line at 1.

    The mark of a method that broke its promise of plain's text is hollow, and it is not the fastest.
    """
    tasks, looks, names = _benches(result), method_looks(result), _by_speed(result)
    highest = max((_span(method)[1] for bench in tasks.values() for method in contenders(bench).values()), default=1.0)
    for axes, bench in zip(style.panels_of(canvas, tasks, shared=True), tasks.values(), strict=True):
        axes.axvline(1, color=style.INK, linewidth=1.1, zorder=1)
        first, wrong, methods = fastest(bench), broken(bench), contenders(bench)
        for place, name in enumerate(names):
            method = methods.get(name)
            if method is None:
                note = "the baseline" if name == bench.baseline else "not run"
                style.beside(axes, (1, place), note, "data", color=style.MUTED, fontsize=8.5, style="italic")
                continue
            value = method.speedup or 0.0
            axes.plot([1, value], [place, place], color=looks[name][0], alpha=0.22, linewidth=6, solid_capstyle="butt")
            style.estimate(axes, place, value, _span(method), looks[name], hollow=name in wrong)
            # In a column of their own, values can be read down like a table's.
            if name in wrong:
                style.beside(axes, (1, place), f"{value:.2f}×, other text", color=style.MUTED, style="italic")
            else:
                style.beside(axes, (1, place), f"{value:.2f}×", fontweight="bold" if name == first else "normal")
        style.named_rows(axes, names, len(names) - 0.45)
        axes.set_xlim(0, max(1.2, highest) * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.set_xlabel(f"times as fast as {bench.baseline}")


def cost_figure(canvas: style.Canvas, result: SuiteResult) -> None:
    """Tokens per pass against the cost of a pass, with lines of equal speed-up of decoding (see `cost_points`)."""
    benches, looks = _benches(result), method_looks(result)
    tasks = {name: points for name, bench in benches.items() if (points := cost_points(bench))}
    every = [(1.0, 1.0), *(point for points in tasks.values() for point in points.values())]
    right = max(x for x, _ in every) * 1.12
    top = max(1.5, max(y for _, y in every) * 1.15)
    bottom = max(0.0, 0.5 * math.floor(2 * min(y for _, y in every) - 0.5))
    for axes, (title, points) in zip(style.panels_of(canvas, tasks, shared=True, pad=18), tasks.items(), strict=True):
        axes.grid(visible=False)
        axes.set_xlim(0.7, right)
        axes.set_ylim(bottom, top)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        _equal_speedups(axes, right, bottom, top)
        wrong = broken(benches[title])
        for name, (x, y) in points.items():
            colour, marker = looks[name]
            filled = style.face(colour, name in wrong)
            axes.plot([x], [y], marker=marker, color=colour, markersize=10 if name == OURS else 8, **filled)
        axes.text(0.97, 0.04, "faster ↘", color=style.MUTED, style="italic", transform=axes.transAxes, ha="right")
        # A plain pass over one row gives one token.
        axes.set_xlabel("tokens per pass" if benches[title].batch_size == 1 else "tokens per pass (baseline = 1)")
        axes.set_ylabel("cost of a pass (baseline = 1)")
    style.legend(canvas, {name: looks[name] for name in looks if any(name in found for found in tasks.values())})


def cost_points(bench: BenchResult) -> dict[str, tuple[float, float]]:
    """Method -> (tokens per pass, seconds per pass), both over the baseline's and of decoding after the first passes.

    A batch has one first pass, which may give its rows several tokens each (`MethodResult.prompt_tokens`). So a point's
    x over its y is the method's speed of decoding over the baseline's, at every batch size. Methods that decode nothing
    after their first passes have no point.
    """
    first = first_passes(bench)
    found = {}
    for name, method in bench.methods.items():
        passes, tokens = method.passes - first, method.tokens - method.prompt_tokens
        if method.kind != YARDSTICK and min(passes, tokens, method.decode_seconds) > 0:
            found[name] = (tokens / passes, method.decode_seconds / passes)
    if bench.baseline not in found:
        return {}
    unit = found[bench.baseline]
    return {name: (tokens / unit[0], seconds / unit[1]) for name, (tokens, seconds) in found.items()}


def first_passes(bench: BenchResult) -> int:
    """Passes that hold prompts: one per batch, and a batch holds prompts of one category only."""
    rows = {name: entry.rows for method in bench.methods.values() for name, entry in method.categories.items()}
    return sum(math.ceil(number / bench.batch_size) for number in rows.values() or [bench.rows])


def _equal_speedups(axes: Any, right: float, bottom: float, top: float) -> None:
    """Lines from the origin, labelled where they leave the panel: on a line, tokens over cost are the same."""
    for value in (0.5, 1, 1.5, 2, 3, 4, 6):
        ends_right = right / value <= top
        x, y = (right, right / value) if ends_right else (top * value, top)
        if x < 0.75 or y <= bottom:
            continue
        colour, width, ink = (style.INK, 1.1, style.INK) if value == 1 else ("#c9cdd5", 0.9, style.MUTED)
        axes.plot([0, x], [0, y], color=colour, linewidth=width, zorder=0)
        place = {} if ends_right else {"xytext": (0, 3), "ha": "center", "va": "bottom"}
        style.beside(axes, (x, y), f"{value:g}×", "data", color=ink, fontsize=8, **place)


def acceptance_figure(canvas: style.Canvas, result: SuiteResult) -> None:
    """Share of passes whose accepted draft reached each depth, for the methods that tell."""
    tasks = {name: found for name, bench in _benches(result).items() if (found := _drafting(bench))}
    looks = method_looks(result)
    for axes, found in zip(style.panels_of(canvas, tasks, shared=True), tasks.values(), strict=True):
        for name, method in found.items():
            shares, (colour, marker) = reached(method.accepted), looks[name]
            line = {"linewidth": 1.8, "markersize": 6.5, "markeredgecolor": style.PAPER}
            axes.plot(range(1, len(shares) + 1), shares, color=colour, marker=marker, **line)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("depth of the draft")
        axes.set_ylabel("passes that accepted so deep")
    style.legend(canvas, {name: looks[name] for name in looks if any(name in found for found in tasks.values())})


def reached(accepted: Sequence[int]) -> list[float]:
    """Passes by exact depth, from 0 -> share of passes that reached depth 1, 2, ..."""
    total = sum(accepted)
    return [sum(accepted[depth:]) / total for depth in range(1, len(accepted))]


def quality_figure(canvas: style.Canvas, result: SuiteResult) -> None:
    """Every metric of the adapter and of its twin, with intervals."""
    tasks, ours, plain = _qualities(result), (style.OUR_COLOUR, "o"), (style.GREYS[0], "D")
    titles = [f"{title}, {quality.rows} rows" for title, quality in tasks.items()]
    for axes, quality in zip(style.panels_of(canvas, titles), tasks.values(), strict=True):
        for place, (metric, value) in enumerate(quality.adapter.items()):
            own, twin = quality.adapter_intervals.get(metric), quality.twin_intervals.get(metric)
            shift = 0.13 if metric in quality.twin else 0.0
            style.estimate(axes, place - shift, value, own, ours)
            if metric in quality.twin:
                style.estimate(axes, place + shift, quality.twin[metric], twin, plain, hollow=True)
            if metric in quality.differences:
                end = max(value, *(own or ()), *(twin or ()))
                gap = f"{quality.differences[metric]:+.1f}".replace("-", "−")
                style.beside(axes, (end, place), gap, "data", color=style.MUTED, fontsize=8.5)
        style.named_rows(axes, quality.adapter, max(len(entry.adapter) for entry in tasks.values()) - 0.4)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent, with 95 % interval")
    style.legend(canvas, {"adapter with streams": ours, "its twin": plain}, hollow={"its twin"})


def overview_figure(canvas: style.Canvas, result: SuiteResult) -> None:
    """For a README: speed-ups above, tokens and cost of a pass below."""
    draws = {
        speedup_figure: "How fast: speed-up with 95 % interval",
        cost_figure: "Why: what a pass gives, and what it costs (grey lines: equal speed-up)",
    }
    parts: Any = canvas.subfigures(2, 1, height_ratios=[_height(draw, result) for draw in draws])
    for part, (draw, title) in zip(parts, draws.items(), strict=True):
        part.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold", wrap=True)
        draw(part, result)


def to_svg(draw: Draw, result: SuiteResult) -> str:
    """An `<svg>` element for a page that holds several: its ids are told apart by the drawing's name."""
    # Without the four there is no metadata block.
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    text = _drawn(draw, result, format="svg", metadata=nothing).decode("utf-8")
    text = text[text.index("<svg") :]
    # Ids such as "axes_1" stand in every drawing; in one page they must differ.
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{draw.__name__}-", text)


def to_png(draw: Draw, result: SuiteResult) -> bytes:
    """The same drawing as pixels."""
    return _drawn(draw, result, format="png", dpi=160, metadata={"Software": None})


def drawings(result: SuiteResult) -> list[Draw]:
    """The plots that this result has something for, in the order of a report."""
    benches = _benches(result).values()
    found: dict[Draw, bool] = {
        speedup_figure: any(contenders(bench) for bench in benches),
        cost_figure: any(len(cost_points(bench)) > 1 for bench in benches),
        acceptance_figure: any(_drafting(bench) for bench in benches),
        quality_figure: bool(_qualities(result)),
    }
    return [draw for draw, something in found.items() if something]


def method_looks(result: SuiteResult) -> dict[str, style.Look]:
    """Method -> colour and marker; by order of appearance within its kind, streaming always the same."""
    greys = cycle((grey, "D") for grey in style.GREYS)
    colours = cycle(zip(style.OKABE_ITO, style.MARKERS, strict=True))
    methods = {name: method for bench in _benches(result).values() for name, method in bench.methods.items()}
    return {
        name: (style.OUR_COLOUR, "o") if name == OURS else next(greys if method.kind == "plain" else colours)
        for name, method in methods.items()
        if method.kind != YARDSTICK
    }


def _benches(result: SuiteResult) -> dict[str, BenchResult]:
    return {name: task.bench for name, task in result.tasks.items() if task.bench.methods}


def _qualities(result: SuiteResult) -> dict[str, QualityResult]:
    return {name: task.quality for name, task in result.tasks.items() if task.quality and task.quality.adapter}


def _drafting(bench: BenchResult) -> dict[str, MethodResult]:
    return {name: m for name, m in bench.methods.items() if len(m.accepted) > 1 and sum(m.accepted) > 0}


def _span(method: MethodResult) -> tuple[float, float]:
    """Ends of a bar: the speed-up's interval; without one, the speed-up itself."""
    return method.speedup_interval or (method.speedup or 0.0, method.speedup or 0.0)


def _by_speed(result: SuiteResult) -> list[str]:
    """Methods of all tasks, in the order of the first task that ranks them; those that none ranks come last."""
    benches = _benches(result).values()
    return list(dict.fromkeys(name for order in (ranked, contenders) for bench in benches for name in order(bench)))


def _drawn(draw: Draw, result: SuiteResult, **settings: Any) -> bytes:
    """The drawing in a file's bytes; `settings` of `savefig`."""
    buffer = io.BytesIO()
    with style.report_style():
        size = (style.WIDTHS[min(style.COLUMNS, _panels(draw, result))], _height(draw, result))
        figure = Figure(figsize=size, layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.09, h_pad=0.05)
        draw(figure, result)
        figure.savefig(buffer, **settings)
    return buffer.getvalue()


def _panels(draw: Draw, result: SuiteResult) -> int:
    return max(1, len(_qualities(result) if draw is quality_figure else _benches(result)))


def _height(draw: Draw, result: SuiteResult) -> float:
    """Inches."""
    if draw is overview_figure:
        return _height(speedup_figure, result) + _height(cost_figure, result)
    rows = math.ceil(_panels(draw, result) / style.COLUMNS)
    if draw is speedup_figure:
        return 0.3 + rows * (0.75 + 0.34 * max(len(_by_speed(result)), 2))
    metrics = max((len(quality.adapter) for quality in _qualities(result).values()), default=1)
    return 0.6 + rows * (0.9 + 0.45 * metrics if draw is quality_figure else 2.9)
