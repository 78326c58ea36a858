"""The tables of a comparison stand whole within 80 columns."""

import io

import pytest
from rich.console import Console
from sample_results import sample_bench, sample_suite

from ssft.bench.report.tables import tables
from ssft.tables import terminal

TABLES = [table for result in (sample_suite(), sample_bench()) for table in tables(result)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_cell_is_there(table):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(terminal(table, 80))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    shown = text.split()
    for line in table.texts():
        assert all(word in shown for cell in line for word in cell.split() if len(word) <= 24), line
