"""Plots of a comparison, drawn with matplotlib's objects alone: no pyplot, and no setting that outlives a drawing.

A method has one colour and one marker in all plots; the colours are told apart by colour-blind readers too (Okabe and
Ito), and plain methods are grey. Every figure has its own light background, so it can stand on a dark page.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ssft.bench.findings import OURS, YARDSTICK, broken, contenders, fastest, ranked, span
from ssft.bench.plot_style import (
    BEHIND,
    COLUMNS,
    GREYS,
    INK,
    MARKERS,
    MUTED,
    OKABE_ITO,
    OUR_COLOUR,
    PAPER,
    WIDTHS,
    Canvas,
    beside,
    dot,
    face,
    label,
    legend,
    panels_of,
    report_style,
)
from ssft.bench.result import BenchResult, MethodResult, QualityResult, SuiteResult

Draw = Callable[[Canvas, SuiteResult], None]
"""Draws one plot of a result into a figure or a part of one."""

PNG_DPI = 160


def speedup_figure(canvas: Canvas, result: SuiteResult) -> None:
    """Speed-up of every method on every task, with its interval, and the baseline as a line at 1.

    The mark of a method that broke its promise of plain's text is hollow, and it is not the fastest.
    """
    tasks = _benches(result)
    everywhere = {name: contenders(bench) for name, bench in tasks.items()}
    names = _by_speed(tasks.values())
    highest = max((span(method)[1] for found in everywhere.values() for method in found.values()), default=1.0)
    right = max(1.2, highest) * 1.02
    looks = method_looks(result)
    panels = panels_of(canvas, len(tasks), sharex=True, sharey=True)
    for axes, (title, bench) in zip(panels, tasks.items(), strict=True):
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        axes.axvline(1, color=INK, linewidth=1.1, zorder=1)
        first, wrong = fastest(bench), broken(bench)
        for place, name in enumerate(names):
            method = everywhere[title].get(name)
            if method is None:
                note = "the baseline" if name == bench.baseline else "not run"
                beside(axes, (1, place), note, "data", color=MUTED, fontsize=8.5, style="italic")
                continue
            colour, marker = looks[name]
            low, high = span(method)
            value = method.speedup or 0.0
            axes.plot([1, value], [place, place], color=colour, alpha=0.22, linewidth=6, solid_capstyle="butt")
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="round")
            axes.plot([value], [place], color=colour, marker=marker, markersize=7, **face(colour, name in wrong))
            # In a column of their own, values can be read down like a table's.
            if name in wrong:
                beside(axes, (1, place), f"{value:.2f}×, other text", color=MUTED, style="italic")
            else:
                beside(axes, (1, place), f"{value:.2f}×", fontweight="bold" if name == first else "normal")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.45, -0.55)
        axes.set_xlim(0, right)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.spines["left"].set_visible(False)
        for tick in axes.get_yticklabels():
            tick.set_fontweight("bold" if tick.get_text() == OURS else "normal")
        label(axes, x=f"times as fast as {bench.baseline}")


def cost_figure(canvas: Canvas, result: SuiteResult) -> None:
    """Tokens per pass against the cost of a pass, with lines of equal speed-up of decoding (see `cost_points`)."""
    tasks = {name: points for name, bench in _benches(result).items() if (points := cost_points(bench))}
    looks = method_looks(result)
    every = [point for points in tasks.values() for point in points.values()]
    right = max((x for x, _ in every), default=1.0) * 1.12
    top = max(1.5, max((y for _, y in every), default=1.0) * 1.15)
    bottom = max(0.0, 0.5 * math.floor(2 * min((y for _, y in every), default=1.0) - 0.5))
    panels = panels_of(canvas, len(tasks), sharex=True, sharey=True)
    for axes, (title, points) in zip(panels, tasks.items(), strict=True):
        axes.set_title(title, pad=18)
        axes.grid(visible=False)
        axes.set_xlim(0.7, right)
        axes.set_ylim(bottom, top)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
        _equal_speedups(axes, right, bottom, top)
        wrong = broken(_benches(result)[title])
        for name, (x, y) in points.items():
            colour, marker = looks[name]
            size = 10 if name == OURS else 8
            looks_of = face(colour, name in wrong)
            axes.plot([x], [y], marker=marker, color=colour, markersize=size, linestyle="", **looks_of)
        axes.text(
            0.97, 0.04, "faster ↘", transform=axes.transAxes, ha="right", color=MUTED, style="italic", bbox=BEHIND
        )
        # A plain pass over one row gives one token.
        unit = "" if _benches(result)[title].batch_size == 1 else " (baseline = 1)"
        label(axes, x=f"tokens per pass{unit}", y="cost of a pass (baseline = 1)")
    present = [name for name in looks if any(name in points for points in tasks.values())]
    legend(canvas, present, looks)


def cost_points(bench: BenchResult) -> dict[str, tuple[float, float]]:
    """Method -> (tokens per pass, seconds per pass), both over the baseline's and of decoding after the first passes.

    A batch has one first pass, which may give its rows several tokens each (`MethodResult.prompt_tokens`). So a point's
    x over its y is the method's speed of decoding over the baseline's, at every batch size. Methods that decode nothing
    after their first passes have no point.
    """
    baseline = bench.methods.get(bench.baseline)
    unit = _per_pass(baseline, bench) if baseline is not None else None
    if unit is None:
        return {}
    points = {}
    for name, method in bench.methods.items():
        own = _per_pass(method, bench)
        if method.kind != YARDSTICK and own is not None:
            points[name] = (own[0] / unit[0], own[1] / unit[1])
    return points


def first_passes(bench: BenchResult) -> int:
    """Passes that hold prompts: one per batch, and a batch holds prompts of one category only."""
    rows = {name: entry.rows for method in bench.methods.values() for name, entry in method.categories.items()}
    return sum(math.ceil(number / bench.batch_size) for number in rows.values() or [bench.rows])


def acceptance_figure(canvas: Canvas, result: SuiteResult) -> None:
    """Share of passes whose accepted draft reached each depth, for the methods that tell."""
    tasks = {name: bench for name, bench in _benches(result).items() if _drafting(bench)}
    looks = method_looks(result)
    panels = panels_of(canvas, len(tasks), sharex=True, sharey=True)
    for axes, (title, bench) in zip(panels, tasks.items(), strict=True):
        axes.set_title(title)
        for name, method in _drafting(bench).items():
            shares = reached(method.accepted)
            colour, marker = looks[name]
            depths = range(1, len(shares) + 1)
            axes.plot(depths, shares, color=colour, marker=marker, markersize=6.5, linewidth=1.8, markeredgecolor=PAPER)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        label(axes, x="depth of the draft", y="passes that accepted so deep")
    present = [name for name in looks if any(name in _drafting(bench) for bench in tasks.values())]
    legend(canvas, present, looks)


def reached(accepted: Sequence[int]) -> list[float]:
    """Passes by exact depth, from 0 -> share of passes that reached depth 1, 2, ..."""
    total = sum(accepted)
    return [sum(accepted[depth:]) / total for depth in range(1, len(accepted))]


def quality_figure(canvas: Canvas, result: SuiteResult) -> None:
    """Every metric of the adapter and of its twin, with intervals."""
    tasks = _qualities(result)
    heights = [len(quality.adapter) for quality in tasks.values()]
    panels = panels_of(canvas, len(tasks))
    ours, twin = OUR_COLOUR, GREYS[0]
    for axes, (title, quality) in zip(panels, tasks.items(), strict=True):
        axes.set_title(f"{title}, {quality.rows} rows")
        metrics = list(quality.adapter)
        for place, metric in enumerate(metrics):
            has_twin = metric in quality.twin
            shift = 0.13 if has_twin else 0.0
            dot(axes, place - shift, quality.adapter[metric], quality.adapter_intervals.get(metric), ours, "o", True)
            if has_twin:
                dot(axes, place + shift, quality.twin[metric], quality.twin_intervals.get(metric), twin, "D", False)
            if metric in quality.differences:
                spans = (quality.adapter_intervals.get(metric), quality.twin_intervals.get(metric))
                end = max(value for values in (*filter(None, spans), (quality.adapter[metric],)) for value in values)
                gap = f"{quality.differences[metric]:+.1f}".replace("-", "−")
                beside(axes, (end, place), gap, "data", color=MUTED, fontsize=8.5)
        axes.set_yticks(range(len(metrics)), metrics)
        axes.set_ylim(max(heights) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        label(axes, x="percent, with 95 % interval")
    handles = [
        Line2D([], [], color=ours, marker="o", markersize=6.5, linewidth=1.6, label="adapter with streams"),
        Line2D([], [], color=twin, marker="D", markersize=6, linewidth=1.6, markerfacecolor=PAPER, label="its twin"),
    ]
    canvas.legend(handles=handles, loc="outside lower center", ncols=2)


def overview_figure(canvas: Canvas, result: SuiteResult) -> None:
    """For a README: speed-ups above, tokens and cost of a pass below."""
    rows = math.ceil(len(_benches(result)) / COLUMNS)
    names = _by_speed(_benches(result).values())
    parts: Any = canvas.subfigures(2, 1, height_ratios=[_speedup_height(rows, len(names)), _square_height(rows)])
    above, below = parts
    hint = " (grey lines: equal speed-up)" if len(_benches(result)) > 1 else ""  # one panel is too narrow for it
    for part, draw, title in (
        (above, speedup_figure, "How fast: speed-up with 95 % interval"),
        (below, cost_figure, f"Why: what a pass gives, and what it costs{hint}"),
    ):
        part.set_facecolor(PAPER)
        part.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        draw(part, result)


def to_svg(draw: Draw, result: SuiteResult) -> str:
    """An `<svg>` element for a page that holds several: its ids are told apart by the drawing's name."""
    with report_style():
        buffer = io.StringIO()
        # Without the four there is no metadata block.
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        _figure(draw, result).savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Ids such as "axes_1" stand in every drawing; in one page they must differ.
    text = re.sub(r'( id="|url\(#|href="#)', rf"\1{draw.__name__}-", text)
    # Its own rule for strokes would hold for the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    # The width is kept, and the height follows from the view box when the page is narrower.
    text = re.sub(r' height="[^"]*"', "", text, count=1)
    return text.replace("<svg ", '<svg style="stroke-linejoin: round" ', 1)


def to_png(draw: Draw, result: SuiteResult) -> bytes:
    """The same drawing as pixels."""
    with report_style():
        buffer = io.BytesIO()
        _figure(draw, result).savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def drawings(result: SuiteResult) -> list[Draw]:
    """The plots that this result has something for, in the order of a report."""
    benches = _benches(result).values()
    found: list[Draw] = []
    if any(contenders(bench) for bench in benches):
        found.append(speedup_figure)
    if any(len(cost_points(bench)) > 1 for bench in benches):
        found.append(cost_figure)
    if any(_drafting(bench) for bench in benches):
        found.append(acceptance_figure)
    if _qualities(result):
        found.append(quality_figure)
    return found


def method_looks(result: SuiteResult) -> dict[str, tuple[str, str]]:
    """Method -> colour and marker; by order of appearance within its kind, streaming always the same."""
    methods = {name: method for bench in _benches(result).values() for name, method in bench.methods.items()}
    looks: dict[str, tuple[str, str]] = {}
    plain = speculative = 0
    for name, method in methods.items():
        if method.kind == YARDSTICK:
            continue
        if name == OURS:
            looks[name] = OUR_COLOUR, "o"
        elif method.kind == "plain":
            looks[name] = GREYS[plain % len(GREYS)], "D"
            plain += 1
        else:
            looks[name] = OKABE_ITO[speculative % len(OKABE_ITO)], MARKERS[speculative % len(MARKERS)]
            speculative += 1
    return looks


def _benches(result: SuiteResult) -> dict[str, BenchResult]:
    return {name: task.bench for name, task in result.tasks.items() if task.bench.methods}


def _qualities(result: SuiteResult) -> dict[str, QualityResult]:
    return {name: task.quality for name, task in result.tasks.items() if task.quality and task.quality.adapter}


def _drafting(bench: BenchResult) -> dict[str, MethodResult]:
    return {name: m for name, m in bench.methods.items() if len(m.accepted) > 1 and sum(m.accepted) > 0}


def _by_speed(benches: Iterable[BenchResult]) -> list[str]:
    """Methods of several tasks, those with the higher mean speed-up first; those that are ranked nowhere come last."""
    values: dict[str, list[float]] = {}
    placed: set[str] = set()
    for bench in benches:
        placed.update(ranked(bench))
        for name, method in contenders(bench).items():
            values.setdefault(name, []).append(method.speedup or 0.0)
    return sorted(values, key=lambda name: (name not in placed, -sum(values[name]) / len(values[name])))


def _per_pass(method: MethodResult, bench: BenchResult) -> tuple[float, float] | None:
    """Tokens and seconds of a pass after the first ones; None without such passes."""
    passes, tokens = method.passes - first_passes(bench), method.tokens - method.prompt_tokens
    return (tokens / passes, method.decode_seconds / passes) if min(passes, tokens, method.decode_seconds) > 0 else None


def _figure(draw: Draw, result: SuiteResult) -> Figure:
    panels = len(_qualities(result) if draw is quality_figure else _benches(result))
    figure = Figure(figsize=(WIDTHS[max(1, min(COLUMNS, panels))], _height(draw, result)), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.09, h_pad=0.05)
    draw(figure, result)
    return figure


def _height(draw: Draw, result: SuiteResult) -> float:
    """Inches."""
    benches = _benches(result)
    rows = max(1, math.ceil(len(benches) / COLUMNS))
    speedups = _speedup_height(rows, len(_by_speed(benches.values())))
    if draw is speedup_figure:
        return speedups
    if draw is overview_figure:
        return speedups + _square_height(rows)
    if draw is quality_figure:
        qualities = _qualities(result).values()
        metrics = max((len(quality.adapter) for quality in qualities), default=1)
        return 0.5 + math.ceil(len(qualities) / COLUMNS) * (0.9 + 0.45 * metrics)
    return _square_height(rows)


def _speedup_height(rows: int, methods: int) -> float:
    return 0.3 + rows * (0.75 + 0.34 * max(methods, 2))


def _square_height(rows: int) -> float:
    return 0.6 + 2.9 * rows


def _equal_speedups(axes: Any, right: float, bottom: float, top: float) -> None:
    """Lines from the origin, labelled where they leave the panel: on a line, tokens over cost are the same."""
    for value in (0.5, 1, 1.5, 2, 3, 4, 6):
        ends_right = right / value <= top
        x, y = (right, right / value) if ends_right else (top * value, top)
        if x < 0.75 or y <= bottom:
            continue
        strong = value == 1
        axes.plot([0, x], [0, y], color=INK if strong else "#c9cdd5", linewidth=1.1 if strong else 0.9, zorder=0)
        axes.annotate(
            f"{value:g}×",
            (x, y),
            xytext=(3, 0) if ends_right else (0, 3),
            textcoords="offset points",
            ha="left" if ends_right else "center",
            va="center" if ends_right else "bottom",
            color=INK if strong else MUTED,
            fontsize=8,
            annotation_clip=False,
        )
