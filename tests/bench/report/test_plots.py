"""The plots: what is drawn where, for results of every shape, without a trace in matplotlib's settings."""

import io
import re

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sample_results import ROWS, SQL, sample_bench, sample_suite

from ssft.bench.report import plots
from ssft.bench.report.style import GREYS, OKABE_ITO, OUR_COLOUR, PAPER, report_style
from ssft.results.schema import CategoryResult, SuiteResult, TaskResult


def suite(**tasks):
    result = sample_suite()
    result.tasks = {name: TaskResult(bench) for name, bench in tasks.items()}
    return result


def drawn(draw, result):
    figure = Figure(figsize=(9.6, 4), layout="constrained")
    with report_style():
        draw(figure, result)
    return [axes for axes in figure.axes if axes.get_visible()]


def points(axes, colour, marker):
    """Places of the single marks of one look."""
    lines = [line for line in axes.lines if (line.get_color(), line.get_marker()) == (colour, marker)]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_speedups_with_intervals_and_the_line_at_1():
    result = sample_suite()
    panels = drawn(plots.speedup_figure, result)
    assert [axes.get_title(loc="left") for axes in panels] == ["sql", "dialogsum", "e2e_nlg"]
    names = [label.get_text() for label in panels[0].get_yticklabels()]
    assert names == ["streaming", "medusa", "prompt_lookup", "assisted", "generate", "plain"]
    for axes, task in zip(panels, result.tasks.values(), strict=True):
        method = task.bench.methods["streaming"]
        assert points(axes, OUR_COLOUR, "o") == [(method.speedup, 0)]
        spans = [tuple(map(float, line.get_xdata())) for line in axes.lines if line.get_color() == OUR_COLOUR]
        assert method.speedup_interval in spans
        assert axes.lines[0].get_xdata() == [1, 1]
        assert axes.get_xlabel() == f"times as fast as {task.bench.baseline}"
        # Nothing lies outside the panel.
        assert axes.get_xlim()[0] <= 0 < method.speedup_interval[1] <= axes.get_xlim()[1]
    assert texts(panels[0]) == ["1.89×", "1.48×", "1.25×", "1.14×", "0.96×", "the baseline"]
    assert texts(panels[2]).count("not run") == 2
    bold = [text.get_text() for axes in panels for text in axes.texts if text.get_fontweight() == "bold"]
    assert bold == ["1.89×", "1.53×", "1.08×"]


def test_a_yardstick_is_in_no_plot():
    result = suite(sql=sample_suite().tasks["sql"].bench)
    assert "llama_cpp" in result.tasks["sql"].bench.methods
    for draw in plots.drawings(result):
        assert "llama_cpp" not in plots.to_svg(draw, result)


def test_a_point_is_tokens_over_cost_without_the_prompts():
    bench = sample_bench()
    found = plots.cost_points(bench)
    assert found["plain"] == (1, 1)
    tokens, cost = found["streaming"]
    # 330 tokens and 94 passes, of which the prompts' 10 gave 10; 7.1 s against 15.2 s in 320 passes.
    assert tokens == pytest.approx(320 / 84)
    assert cost == pytest.approx((7.1 / 84) / (15.2 / 320))
    # 24 of the 330 tokens came from the first passes, which verified a draft each.
    assert found["prompt_lookup"][0] == pytest.approx((330 - 24) / (205 - 10))
    for name, (x, y) in found.items():
        assert x / y == pytest.approx(bench.methods[name].decode_speedup)


@pytest.mark.parametrize(("categories", "first"), [({}, 3), ({"a": 5, "b": 5}, 4), ({"a": 9, "b": 1}, 4)])
def test_a_batch_has_one_first_pass(categories, first):
    bench = sample_bench(batch_size=4)
    for name, method in bench.methods.items():
        method.passes = method.calls // 3
        method.categories = {
            key: CategoryResult(rows, 165, 90, 1.8, 4.0, "plain", 1.2, None) for key, rows in categories.items()
        }
        assert plots.first_passes(bench) == first, name
    found = plots.cost_points(bench)
    assert found["plain"] == (1, 1)
    assert found["streaming"][0] == pytest.approx((320 / (31 - first)) / (320 / (110 - first)))
    for name, (x, y) in found.items():
        assert x / y == pytest.approx(bench.methods[name].decode_speedup)
    (axes,) = drawn(plots.cost_figure, suite(sql=bench))
    assert axes.get_xlabel() == "tokens per pass (baseline = 1)"


def test_nothing_is_bold_where_nothing_beats_the_baseline():
    bench = sample_bench()
    for method in bench.methods.values():
        if method.speedup is not None:
            method.speedup = min(method.speedup, 0.9)
    (axes,) = drawn(plots.speedup_figure, suite(sql=bench))
    assert {text.get_fontweight() for text in axes.texts} == {"normal"}


def test_a_broken_promise_is_hollow_and_not_bold():
    result = suite(sql=sample_bench())
    result.tasks["sql"].bench.methods["streaming"].identical = ROWS - 1
    (axes,) = drawn(plots.speedup_figure, result)
    assert "1.89×, other text" in texts(axes)
    assert [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"] == ["1.48×"]
    # Ranked nowhere, it stands below all others.
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "streaming"
    for draw in (plots.speedup_figure, plots.cost_figure):
        (axes,) = drawn(draw, result)
        marks = {line.get_marker(): line for line in axes.lines if len(line.get_xdata()) == 1}
        assert marks["o"].get_markerfacecolor() == PAPER
        assert all(line.get_markerfacecolor() != PAPER for marker, line in marks.items() if marker != "o")


def test_a_missing_interval_is_no_bar():
    result = suite(sql=sample_bench())
    method = result.tasks["sql"].bench.methods["streaming"]
    method.speedup_interval = None
    (axes,) = drawn(plots.speedup_figure, result)
    ours = [tuple(line.get_xdata()) for line in axes.lines if line.get_color() == OUR_COLOUR]
    assert ours == [(1, method.speedup), (method.speedup, method.speedup), (method.speedup,)]


def test_without_passes_after_the_prompt_there_is_no_point():
    bench = sample_bench()
    for name in ("medusa", "plain"):
        bench.methods[name].tokens = bench.methods[name].passes = ROWS
        assert name not in plots.cost_points(bench)
    assert plots.cost_points(bench) == {}
    bench.baseline = "gone"
    assert plots.cost_points(bench) == {}


def test_lines_of_equal_speedup_are_what_they_say():
    panels = drawn(plots.cost_figure, sample_suite())
    for axes in panels:
        slopes = {line.get_ydata()[1] / line.get_xdata()[1] for line in axes.lines if len(line.get_xdata()) == 2}
        labels = {1 / float(text[:-1]) for text in texts(axes) if text.endswith("×")}
        assert sorted(slopes) == pytest.approx(sorted(labels))
        assert 1 in slopes
        for name, (x, y) in plots.cost_points(sample_suite().tasks[axes.get_title(loc="left")].bench).items():
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1], name
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1], name


def test_shares_of_passes_that_reach_a_depth():
    assert plots.reached([2, 1, 0, 1]) == [0.5, 0.25, 0.25]
    assert plots.reached([0, 4]) == [1]
    axes = drawn(plots.acceptance_figure, suite(sql=sample_bench()))[0]
    ours = next(line for line in axes.lines if line.get_color() == OUR_COLOUR)
    assert list(ours.get_xdata()) == [1, 2, 3, 4]
    assert list(ours.get_ydata()) == pytest.approx([71 / 84, 60 / 84, 46 / 84, 33 / 84])
    assert len(axes.lines) == 2


def test_quality_beside_the_twin_where_there_is_one():
    panels = drawn(plots.quality_figure, sample_suite())
    assert [axes.get_title(loc="left") for axes in panels] == [f"{n}, 40 rows" for n in ("sql", "dialogsum", "e2e_nlg")]
    assert [x for x, _ in points(panels[0], OUR_COLOUR, "o")] == [71.5, 78.0]
    assert [x for x, _ in points(panels[0], GREYS[0], "D")] == [72.0, 78.5]
    assert points(panels[2], GREYS[0], "D") == []
    assert texts(panels[0]) == ["−0.5", "−0.5"]
    assert texts(panels[2]) == []


def test_a_plot_is_left_out_where_it_has_nothing_to_show():
    assert plots.drawings(sample_suite()) == [
        plots.speedup_figure,
        plots.cost_figure,
        plots.acceptance_figure,
        plots.quality_figure,
    ]
    plain = suite(sql=sample_bench("sql", {name: SQL[name] for name in ("plain", "generate")}))
    assert plots.drawings(plain) == [plots.speedup_figure, plots.cost_figure]
    assert plots.drawings(suite(sql=sample_bench("sql", {"plain": SQL["plain"]}))) == []
    assert plots.drawings(suite()) == []


def test_looks_tell_methods_apart_and_stay_with_them():
    looks = plots.method_looks(sample_suite())
    assert len(set(looks.values())) == len(looks) == 6
    assert looks["streaming"][0] == OUR_COLOUR
    assert {looks["plain"][0], looks["generate"][0]} <= set(GREYS)
    assert OUR_COLOUR not in OKABE_ITO
    assert "llama_cpp" not in looks


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_the_picture_for_a_readme(tasks):
    result = suite(**{f"task{number}": sample_bench() for number in range(tasks)})
    image = Image.open(io.BytesIO(plots.to_png(plots.overview_figure, result)))
    assert image.width == {1: 832, 2: 1184, 5: 1536}[tasks]
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_names_are_no_formulas_and_no_markup():
    result = suite(**{"$\\frac$ <b>&": sample_bench()})
    svg = plots.to_svg(plots.speedup_figure, result)
    assert "$\\frac$ &lt;b&gt;&amp;" in svg
    plots.to_png(plots.speedup_figure, result)


def test_a_drawing_is_an_element_of_its_own():
    result = suite(sql=sample_bench())
    svg = plots.to_svg(plots.speedup_figure, result)
    assert svg.startswith("<svg ")
    assert "<metadata" not in svg
    assert 'viewBox="0 0 ' in svg
    assert all(name.startswith("speedup_figure-") for name in re.findall(r' id="([^"]*)"', svg))
    assert svg == plots.to_svg(plots.speedup_figure, result)


def test_the_users_settings_neither_change_nor_matter():
    result: SuiteResult = suite(sql=sample_bench())
    svg = plots.to_svg(plots.speedup_figure, result)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.titley": 0.3}):
        before = dict(matplotlib.rcParams)
        assert plots.to_svg(plots.speedup_figure, result) == svg
        assert dict(matplotlib.rcParams) == before
