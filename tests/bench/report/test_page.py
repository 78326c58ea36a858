"""The HTML page: whole, self-contained, escaped, and telling what the numbers tell."""

import re
from html.parser import HTMLParser

import pytest
from sample_results import sample_suite

from ssft.bench.report import plots
from ssft.bench.report.page import html_report
from ssft.results.schema import Difference, TaskResult

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>alert('&\"')</script>"


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page; `open_tags` is empty where every tag was closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open_tags, self.tables = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open_tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += int(dict(attrs).get("colspan", 1))

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def text():
    return html_report(sample_suite())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_tag_is_closed_and_every_row_is_full(page):
    assert page.open_tags == []
    assert len(page.tables) == 15
    for rows in page.tables:
        assert len(set(rows)) == 1


def test_nothing_comes_from_elsewhere(page, text):
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert value.startswith("#")
        assert not name.startswith("on")
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert "@import" not in text


def test_ids_are_unique_and_those_referred_to_exist(page, text):
    ids = [value for name, value in page.attributes if name == "id"]
    assert ids
    assert len(ids) == len(set(ids))
    referred = {value[1:] for name, value in page.attributes if name in ("href", "xlink:href")}
    referred |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert referred
    assert referred <= set(ids)


def test_the_findings_stand_on_top(page):
    words = page.words
    for sentence in (
        "streaming is the fastest: 1.89 times (95 % interval 1.68 to 2.10) as fast as plain.",
        "prompt_lookup is the fastest: 1.53 times",
        "Nothing is clearly faster than plain: streaming is 1.08 times",
    ):
        assert words.index(sentence) < words.index("How fast")


def test_tables_reasons_rules_and_sources_are_there(page):
    words = page.words
    for part in (
        "the static cache does not run with routed LoRA; use --merge",
        "no heads under outputs/peers/e2e_nlg/medusa",
        "−0.5 (−2.5 to +1.5)",
        "dialogsum: speed-up by category",
        "115,000,000",
        "ssft bench tasks --peers peers --output report",
        "transformers 5.23.0",
        "measured 2026-01-05 14:30 UTC",
        "float32 on cpu: Intel Xeon, 2 threads, to which torch was held",
        "3 rounds; each runs every method",
        "kind best_first, max_nodes 16",
        "the first pass of assisted and prompt_lookup already verifies a draft",
        "The adapter answers with its streams, as its users run it",
    ):
        assert part in words, part
    assert "interrupted" not in words


def test_four_plots_with_their_text_as_text(page):
    assert page.tags.count("svg") == 4
    assert "depth of the draft" in page.words


@pytest.fixture
def no_plots(monkeypatch):
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr(plots, "drawings", lambda _: [])


def rows(text, mark):
    """The methods of the rows of a mark, in the order of the tasks."""
    return re.findall(rf'<tr class="{mark}"><th scope="row" class="text">(\w+)', text)


def test_rows_are_marked(text):
    assert rows(text, "best") == ["streaming", "prompt_lookup", "streaming"]
    assert rows(text, "base") == ["plain", "generate", "plain"]
    assert rows(text, "wrong") == ["prompt_lookup"]


@pytest.mark.usefixtures("no_plots")
def test_a_broken_promise_is_neither_bold_nor_on_top():
    result = sample_suite()
    method = result.tasks["sql"].bench.methods["streaming"]
    method.identical, method.differences = 6, [Difference(row, 1, 2, 3, 0.1) for row in range(4)]
    text = html_report(result)
    assert rows(text, "best")[0] == "medusa"
    assert rows(text, "wrong") == ["streaming", "prompt_lookup"]
    words = Page(text).words
    assert words.index("medusa is the fastest: 1.48 times") < words.index("The numbers")
    result.tasks["sql"].bench.precision = "bfloat16"
    text = html_report(result)
    assert (rows(text, "best")[0], rows(text, "wrong")) == ("streaming", ["prompt_lookup"])


def test_foreign_texts_are_escaped_everywhere():
    result = sample_suite()
    task = result.tasks.pop("sql")
    result.tasks = {HOSTILE: task, **result.tasks}
    task.bench.methods = {HOSTILE if name == "medusa" else name: m for name, m in task.bench.methods.items()}
    task.bench.left_out = {HOSTILE: HOSTILE}
    task.bench.tree = {HOSTILE: HOSTILE}
    task.quality.adapter = {HOSTILE: 50.0}
    task.quality.metric = result.device = result.command = result.created = HOSTILE
    result.versions = {HOSTILE: HOSTILE}
    for method in result.tasks["dialogsum"].bench.methods.values():
        method.categories[HOSTILE] = method.categories.pop("office")
    page = Page(html_report(result))
    assert "script" not in page.tags
    assert page.open_tags == []
    assert page.words.count(HOSTILE) > 10


@pytest.mark.usefixtures("no_plots")
def test_an_interrupted_run_says_so():
    result = sample_suite()
    result.interrupted = True
    assert "The run was interrupted. This page holds what was finished." in Page(html_report(result)).words


def test_a_task_with_the_baseline_alone():
    result = sample_suite()
    bench = result.tasks["e2e_nlg"].bench
    bench.methods = {"plain": bench.methods["plain"]}
    result.tasks = {"e2e_nlg": TaskResult(bench)}
    page = Page(html_report(result))
    assert page.tags.count("svg") == 0
    assert "Only plain ran" in page.words
