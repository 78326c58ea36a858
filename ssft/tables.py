"""One table, three renderings: terminal, Markdown, HTML.

A table holds facts and foreign text as they are. Its columns say what numbers look like, the same in all three. Each
renderer escapes what would act as markup there, or move the cursor.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich import filesize

if TYPE_CHECKING:
    from rich.console import Group

NOTHING = "–"
"""Stands in the cell of None."""
BYTES = "bytes"
"""Form of a column of bytes, in powers of 1,000."""
GAP = 2
LEAST_TEXT = 24
"""Characters of a column of text that may be wrapped, at least."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def count(number: int, noun: str) -> str:
    """`1 prompt`, `2 prompts`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; a dash stands for an interval that is missing."""

    value: float
    interval: tuple[float, float] | None


def estimate(value: float | None, interval: Sequence[float | None] | None) -> Estimate | None:
    """A value that may be missing, with an interval that may be missing, too."""
    low, high = interval or (None, None)
    return None if value is None else Estimate(value, None if low is None or high is None else (low, high))


@dataclass(frozen=True)
class Column:
    """form: format of its numbers as in `format()`, or `BYTES`; without it integers have thousands separated, other
    numbers three decimals. unit: follows each number. right: alignment; None: right if all cells are bare numbers."""

    name: str
    form: str = ""
    unit: str = ""
    right: bool | None = None


@dataclass
class Table:
    """title: for a terminal; in Markdown and HTML the page writes it, at its own level of headings. columns: a text is
    taken as a column of that name. rows: [rows][columns] of None, bool, int, float, `Estimate` or text. notes: lines
    under the table. keys: columns at the left that name a row. marks: row -> "best", "base", "wrong" or several of
    them, separated by spaces: what to stress (the classes of the row in HTML)."""

    title: str
    columns: Sequence[Any]
    rows: list[list[Any]]
    notes: list[str] = field(default_factory=list)
    keys: int = 1
    marks: dict[int, str] = field(default_factory=dict)
    head: list[Column] = field(init=False, repr=False)
    """The columns, with `right` decided."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            found = sorted({len(row) for row in self.rows})
            raise ValueError(f"table {self.title!r}: {len(self.columns)} columns, rows of {found} cells")
        self.head = [Column(column) if isinstance(column, str) else column for column in self.columns]
        for place, column in enumerate(self.head):
            kinds = {type(row[place]) for row in self.rows} - {type(None)}
            if column.right is None:
                self.head[place] = replace(column, right=bool(kinds) and kinds <= {int, float})

    def texts(self) -> list[list[str]]:
        """[rows][columns] as text, without any escaping."""
        return [[cell_text(cell, column) for cell, column in zip(row, self.head, strict=True)] for row in self.rows]


def cell_text(value: Any, column: Column) -> str:
    """`–`, `yes`, `2,304`, `9.42 kB`, `1.84× (1.62 – 2.05)`, `−0.5 (−2.5 to +1.5)`, or the text itself."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Estimate):
        between = " to " if column.form.startswith("+") else " – "
        interval = between.join(_number(end, column.form) for end in value.interval or ())
        return f"{_number(value.value, column.form)}{column.unit} ({interval or NOTHING})"
    return f"{_number(value, column.form)}{column.unit}" if isinstance(value, int | float) else str(value)


def _number(value: float, form: str) -> str:
    if form == BYTES:
        return filesize.decimal(int(value), precision=2)
    return format(value, form or ("," if isinstance(value, int) else ",.3f")).replace("-", "−")


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 10 min`, `9 days`."""
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f"{minutes / 60 / 24:,.0f} days"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def terminal(table: Table, width: int) -> "Group":
    """Something that rich prints within `width` characters: columns that find no room beside the others continue below,
    after the columns that name the rows; long text is wrapped."""
    from rich import cells, console, text
    from rich.table import Table as Grid

    names = [terminal_text(column.name) for column in table.head]
    lines = [[terminal_text(cell) for cell in row] for row in table.texts()]

    def least(place: int) -> int:
        """Characters that a column needs: headings wrap between words, text beyond `LEAST_TEXT`, numbers never."""
        wraps = [isinstance(row[place], str) for row in table.rows]
        shown = [line[place][: LEAST_TEXT if text else None] for text, line in zip(wraps, lines, strict=True)]
        return max(map(cells.cell_len, ["", *names[place].split(), *shown]))

    def fits(block: list[int]) -> bool:
        return sum(least(place) + GAP for place in block) - GAP <= width

    def widths(block: list[int]) -> dict[int, int | None]:
        """Characters of each column: what it needs, and as much of what it would like as there is room for. Left to
        itself rich shrinks the widest ones below what they need, and cuts the last one off."""
        if not fits(block):
            return dict.fromkeys(block)
        liked = {place: max(map(cells.cell_len, [names[place], *(line[place] for line in lines)])) for place in block}
        room = width + GAP - sum(least(place) + GAP for place in block)
        found: dict[int, int | None] = {}
        for taken, place in enumerate(sorted(block, key=lambda place: liked[place] - least(place))):
            more = min(liked[place] - least(place), room // (len(block) - taken))
            found[place], room = least(place) + more, room - more
        return found

    keys = list(range(table.keys))
    blocks = [keys]
    for place in range(table.keys, len(names)):
        if blocks[-1] == keys or fits([*blocks[-1], place]):
            blocks[-1] = [*blocks[-1], place]
        else:
            blocks.append([*keys, place])
    parts: list[Any] = [text.Text(terminal_text(table.title))] if table.title else []
    for number, block in enumerate(blocks):
        grid = Grid(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        chosen = widths(block)
        for place in block:
            side: Any = "right" if table.head[place].right else "left"
            grid.add_column(text.Text(names[place]), justify=side, overflow="fold", width=chosen[place])
        for row, line in enumerate(lines):
            marks = table.marks.get(row, "")
            style = "red" if "wrong" in marks else "bold" if "best" in marks else ""
            grid.add_row(*(text.Text(line[place]) for place in block), style=style)
        parts += ["", grid] if number else [grid]
    return console.Group(*parts, *(text.Text(terminal_text(note)) for note in table.notes))


def terminal_text(text: str) -> str:
    """Text in one line in which nothing moves the cursor, colours or turns the direction of what follows: such
    characters are shown by their escapes, a line break as `\\n`."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def markdown(table: Table) -> str:
    """A pipe table, then its notes, each a paragraph; the title is left to the page. No line break at the end."""
    lines = [[markdown_text(column.name) for column in table.head]]
    lines.append(["---:" if column.right else "---" for column in table.head])
    for row, texts in enumerate(table.texts()):
        line = [markdown_text(cell) for cell in texts]
        lines.append([f"**{cell}**" for cell in line] if "best" in table.marks.get(row, "") else line)
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([rows, *map(markdown_text, table.notes)])


def markdown_text(text: str) -> str:
    """Text without any meaning to Markdown or HTML, in one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()).replace("&", "&amp;"))


def html(table: Table) -> Markup:
    """`<table>` and its notes as `<p>`; the title is left to the page. A row's marks are its classes; cells to the left
    have the class `left`, those of text, which may be wrapped, `text`."""

    def cell(tag: str, column: Column, text: str, value: Any) -> Markup:
        side = "" if column.right else f' class="{"text" if isinstance(value, str) else "left"}"'
        return Markup(f"<{tag}{side}>{{}}</{tag[:2]}>").format(text)

    lines = []
    for row, (values, texts) in enumerate(zip(table.rows, table.texts(), strict=True)):
        marks = Markup(' class="{}"').format(table.marks[row]) if table.marks.get(row) else ""
        tags = ['th scope="row"'] * table.keys + ["td"] * (len(texts) - table.keys)
        cells = map(cell, tags, table.head, texts, values)
        lines.append(Markup("<tr{}>{}</tr>").format(marks, Markup("").join(cells)))
    names = [cell('th scope="col"', column, column.name, column.name) for column in table.head]
    frame = '<div class="scroll"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table></div>'
    whole = Markup(frame).format(Markup("").join(names), Markup("\n").join(lines))
    return whole + Markup("").join(Markup("\n<p>{}</p>").format(note) for note in table.notes)
