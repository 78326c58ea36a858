"""A table in its three renderings: the same numbers, every foreign text escaped, nothing wider than the terminal."""

import io

import pytest
from rich.console import Console

from ssft.tables import BYTES, Column, Estimate, Table, cell_text, duration, html, markdown, terminal

HOSTILE = "<b>|*x*&\x1b[31m\n\u202e"


def sample(**changes):
    columns = ["method", Column("speed-up", ".2f", "×"), Column("on disk", BYTES), "tokens"]
    rows = [["plain", 1.0, 0, 330], ["streaming", Estimate(1.84, (1.62, 2.05)), 9424, 1200]]
    return Table("title", columns, rows, **changes)


def shown(table, width, **settings):
    console = Console(file=io.StringIO(), width=width, highlight=False, **settings)
    console.print(terminal(table, width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (None, Column("x", ".2f"), "–"),
        (True, Column("x"), "yes"),
        (115_000_000, Column("x"), "115,000,000"),
        (0.5, Column("x"), "0.500"),
        (-3, Column("x"), "−3"),
        (1.889, Column("x", ".2f", "×"), "1.89×"),
        (Estimate(1.84, (1.62, 2.05)), Column("x", ".2f", "×"), "1.84× (1.62 – 2.05)"),
        (Estimate(1.84, None), Column("x", ".2f", "×"), "1.84× (–)"),
        (Estimate(-0.5, (-2.5, 1.5)), Column("x", "+.1f"), "−0.5 (−2.5 to +1.5)"),
        (9_424, Column("x", BYTES), "9.42 kB"),
        ("-3", Column("x", ".2f", "×"), "-3"),
    ],
)
def test_a_cell_is_the_same_text_everywhere(value, column, text):
    assert cell_text(value, column) == text
    table = Table("", ["key", column], [["a", value]])
    assert shown(table, 80)[1].split(maxsplit=1)[1] == text
    assert f"| a | {text} |" in markdown(table)
    assert f">{text}</td>" in html(table)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (7140, "119 min"),
        (7200, "2 h 0 min"),
        (11_400, "3 h 10 min"),
        (200_000, "2 days"),
    ],
)
def test_a_duration_has_two_parts_at_most(seconds, text):
    assert duration(seconds) == text


def test_a_row_that_does_not_fit_its_columns_is_refused():
    with pytest.raises(ValueError, match=r"table 'x': 2 columns, rows of \[1, 3\] cells"):
        Table("x", ["a", "b"], [["1"], ["1", "2", "3"]])


def test_the_terminal_aligns_numbers_and_ends_with_the_notes():
    assert shown(sample(notes=["a note"]), 80) == [
        "title",
        "method     speed-up             on disk  tokens",
        "plain      1.00×                0 bytes     330",
        "streaming  1.84× (1.62 – 2.05)  9.42 kB   1,200",
        "a note",
    ]


@pytest.mark.parametrize("width", [32, 48, 80])
def test_columns_without_room_continue_below_after_the_key(width):
    table = sample()
    table = Table(
        "", [*table.head, "reason"], [[*row, "words that are wrapped where there is no room"] for row in table.rows]
    )
    lines = shown(table, width)
    assert all(len(line) <= width for line in lines)
    assert sum(line.startswith("streaming") for line in lines) == {32: 3, 48: 2, 80: 1}[width]
    assert any("1.84× (1.62 – 2.05)" in line for line in lines)
    # A terminal too narrow for a single column still shows every letter.
    assert "".join("".join(shown(Table("", ["k"], [["a" * 50]]), 20)[1:]).split()) == "a" * 50


def test_the_terminal_stresses_marked_rows():
    lines = shown(sample(marks={0: "wrong", 1: "best base"}), 80, force_terminal=True, color_system="standard")
    assert "\x1b[31mplain" in lines[2]
    assert "\x1b[1mstreaming" in lines[3]


def test_the_terminal_shows_control_characters_instead_of_obeying_them():
    lines = shown(Table(HOSTILE, [HOSTILE], [[HOSTILE]], [HOSTILE]), 80)
    assert [line.strip() for line in lines] == [r"<b>|*x*&\x1b[31m\n\u202e"] * 4


def test_markdown():
    assert markdown(sample(notes=["a *note*"], marks={1: "best"})).splitlines() == [
        "| method | speed-up | on disk | tokens |",
        "| --- | --- | ---: | ---: |",
        "| plain | 1.00× | 0 bytes | 330 |",
        "| **streaming** | **1.84× (1.62 – 2.05)** | **9.42 kB** | **1,200** |",
        "",
        r"a \*note\*",
    ]


def test_foreign_text_is_no_markup_in_markdown():
    lines = markdown(Table("", [HOSTILE], [[HOSTILE]])).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(r"| \<b\>\|\*x\*&amp;")
    assert lines[2] == lines[0]


def test_html_escapes_everything_and_classes_are_the_marks():
    text = html(Table("", [HOSTILE], [[HOSTILE]], [HOSTILE], marks={0: '"><i>'}))
    assert text.count("&lt;b&gt;|*x*&amp;") == 3
    assert "<b>" not in text
    assert "<i>" not in text
    rows = html(sample(marks={1: "best"})).splitlines()
    assert (
        rows[3]
        == '<tr><th scope="row" class="text">plain</th><td class="left">1.00×</td><td>0 bytes</td><td>330</td></tr>'
    )
    assert rows[4].startswith('<tr class="best"><th scope="row" class="text">streaming</th>')


def test_no_column_of_a_full_table_is_cut_off():
    """Wide headings over short numbers: rich alone would shrink the widest columns too far, and cut the last one."""
    names = ["method", "prompts, s", "decoding, s", "same text", "extra parameters", "on disk", "peak memory"]
    row = ["prompt_lookup", 2.0, 15.2, 10, 115_000_000, "460.00 MB", "86.00 MB"]
    table = Table("", [*names[:5], Column("on disk", right=True), Column("peak memory", right=True)], [row])
    for width in range(30, 130):
        lines = shown(table, width)
        assert max(map(len, lines)) <= width
        assert "".join(lines).count("86.00 MB") == 1, width
        assert {word for name in names for word in name.split()} <= set(" ".join(lines).split()), width
